"""What a gateway adds to the first and to the last byte of a streamed answer, one request at a time.

The same requests go by turns straight to what generates and through a gateway; each turn gives one difference. Gateways
are measured in blocks that alternate, so that each answers as it does in use and not after the other has emptied the
processor's caches. Before our engine a receipt is committed before the last byte, so what the last byte adds after the
first one is compared with one commit on the same disk; on answers of one token, for an engine that costs nothing sends
its tokens faster than anybody would relay them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gateway.contenders import MODEL, Contender
from benchmarks.gateway.figures import milliseconds
from benchmarks.gateway.load import Connection, Load, Loader, Target, request_of
from tests.harness.fakes import make_receipt

from antiphon.catalog.database import Database
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import SystemClock
from antiphon.core.scope import Scope
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import Delta, GenerationRequest
from antiphon.governance.identity.principal import Principal
from antiphon.serving.request import AnswerRequest

TOKENS = 16
WARM_UP = 20
BLOCKS = 5
Times = list[tuple[float, float]]
"""(first byte, last byte) in seconds."""


def before_upstream(loader: Loader, upstream: Target, gateways: Sequence[Contender], pairs: int) -> dict[str, Any]:
    """Milliseconds (p10, p50, p90, p99) that each gateway adds to the bare upstream's.

    Raises:
        RuntimeError: a request was refused.
    """
    bare: Times = []
    added: dict[str, tuple[list[float], list[float]]] = {gateway.name: ([], []) for gateway in gateways}
    for block in range(BLOCKS):
        for gateway in gateways if block % 2 else reversed(gateways):
            load = Load(
                (upstream, gateway.target), 1, requests=-(-pairs // BLOCKS) + WARM_UP, tokens=TOKENS, stream=True
            )
            found = loader.send(load)
            if found.refused:
                raise RuntimeError(f"A request was refused: {found.example}")
            straight, through = (list(answers[WARM_UP:]) for answers in found.answers)
            bare += straight
            for place, so_far in enumerate(added[gateway.name]):
                so_far += _added(through, straight, place)
    table: dict[str, Any] = {"first byte, upstream": milliseconds([first for first, _ in bare])}
    for name, (first, last) in added.items():
        table[f"first byte added, {name}"] = milliseconds(first)
        table[f"last of {TOKENS} added, {name}"] = milliseconds(last)
    return table


def before_engine(gateway: Contender, engine: Path, folder: Path, pairs: int) -> dict[str, Any]:
    """The same before our engine's own socket, and one commit on this disk."""
    direct, through = asyncio.run(_turns(gateway, engine, pairs, TOKENS))
    bare_end, our_end = asyncio.run(_turns(gateway, engine, pairs, 1))
    after = [
        (ours[1] - ours[0]) - (bare[1] - bare[0]) for ours, bare in zip(our_end, bare_end, strict=True)
    ]  # fmt: skip
    return {
        "first byte, engine": milliseconds([first for first, _ in direct]),
        f"first byte added, {gateway.name}": milliseconds(_added(through, direct, 0)),
        "after the first byte added": milliseconds(after),
        f"last of {TOKENS} added, {gateway.name}": milliseconds(_added(through, direct, 1)),
        "one commit": milliseconds(asyncio.run(_commits(folder, pairs))),
    }


def _added(through: Times, bare: Times, place: int) -> list[float]:
    return [ours[place] - theirs[place] for ours, theirs in zip(through, bare, strict=True)]


async def _turns(gateway: Contender, socket: Path, pairs: int, tokens: int) -> tuple[Times, Times]:
    """Which of the two goes first alternates."""
    engine = EngineClient(socket, peer="bench")
    loop = asyncio.get_running_loop()
    _, line = await loop.create_connection(Connection, "127.0.0.1", gateway.target.port)
    load = Load((gateway.target,), 1, tokens=tokens, stream=True, chat=False)
    direct: Times = []
    through: Times = []
    for number in range(pairs + WARM_UP):
        for way in ("direct", "through") if number % 2 else ("through", "direct"):
            if way == "direct":
                took = await _straight(engine, f"Round {number}: what do you see?", tokens)
            else:
                took = await line.ask(request_of(gateway.target, load, number), True)
            if number >= WARM_UP:
                (direct if way == "direct" else through).append(took)
    line.transport.close()
    await engine.close()
    return direct, through


async def _straight(engine: EngineClient, prompt: str, tokens: int) -> tuple[float, float]:
    begin, first = time.perf_counter(), 0.0
    async for event in engine.generate(GenerationRequest(f"b{time.monotonic_ns()}", MODEL, prompt, tokens)):
        if isinstance(event, Delta) and not first:
            first = time.perf_counter() - begin
    return first, time.perf_counter() - begin


async def _commits(folder: Path, count: int) -> list[float]:
    """Seconds of one receipt's commit by itself, in a catalog on the same disk."""
    database = Database.open(f"sqlite:///{folder}/commit.db")
    database.migrate()
    receipts, group = Receipts(database), GroupCommit(database)
    asker = Principal("bench", "default", "service")
    spent = []
    for number in range(count):
        request = AnswerRequest(scope=Scope(), principal=asker, application=MODEL, question=f"Round {number}")
        receipt, texts = make_receipt(request, f"text {number}", SystemClock())
        begin = time.perf_counter()
        await group.submit(lambda connection, made=(receipt, texts): receipts.add(*made, within=connection))
        spent.append(time.perf_counter() - begin)
    group.close()
    database.close()
    return spent
