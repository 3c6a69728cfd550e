"""One blueprint all the way, by the commands of its README and the requests of its users.

Init, up, ask, batch, outcomes in, train or edit the prompt, gates, shadow, canary, live; then a bad release, which must
be stopped. Nothing here reaches into the project: definitions are edited as a text, everything else is a command or
HTTP.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from tests.chaos.harness.running import supervised, until
from tests.harness.ports import free_port

from antiphon.core.child_process import start_child

AT_ONCE = 2
"""Users who ask at the same time."""

FIRST_SECONDS = 420
"""The first release is held against its gates, and features are published, within this."""

LOOK_EVERY, LOOK_PAUSE = 4, 1.0
"""Requests between two looks at a rollout, and in shadow seconds without any after them: its answers wait for an idle
engine, and stored ones cost their users no time."""

THUMB = "thumb"
"""In place of an outcome: words of a right answer, which decide whether its user likes it."""

Edit = tuple[str, str]
"""A text of the definitions, and what it becomes."""


@dataclass(frozen=True)
class UserRequest:
    """What a user sends; ``truth``: outcome to what will have come true of it, or :data:`THUMB` to words of a right
    answer."""

    entity: dict[str, str]
    question: str
    truth: dict[str, Any]


@dataclass(frozen=True)
class Blueprint:
    """A blueprint with its users.

    Attributes:
        ask: draws a request; may read the project's tables.
        table: a file of the project that is answered in batch, and the number of its rows.
        declare: edits before the first start.
        improve: edits that make a better release; without any the application is trained.
        spoil: edits that make a bad one.
        most: requests after which a rollout that has decided nothing is given up.
    """

    name: str
    application: str
    ask: Callable[[Path, random.Random], UserRequest]
    table: tuple[str, int]
    improve: tuple[Edit, ...] = ()
    spoil: tuple[Edit, ...] = ()
    declare: tuple[Edit, ...] = ()
    most: int = 600


@dataclass
class Journey:
    """A blueprint under way, in a folder of its own."""

    blueprint: Blueprint
    folder: Path
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)
    _users: int = 0

    def __post_init__(self) -> None:
        self.root = self.folder / self.blueprint.name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._chance = random.Random(self.seed)

    async def run(self) -> dict[str, Any]:
        """Go all the way; the figures of each part.

        Raises:
            RuntimeError: a command failed, or a release is not where it should be.
        """
        name, began = self.blueprint.application, time.monotonic()
        with self._timed("init"):
            made = ("init", self.blueprint.name, "--blueprint", self.blueprint.name, "--port", str(self.port))
            await self._command(*made, where=self.folder)
            self._edit(self.blueprint.declare)
        clock = time.monotonic()
        async with supervised(self.root, self.url):
            key = (self.root / ".antiphon" / "keys" / "admin.key").read_text(encoding="utf-8").strip()
            headers = {"authorization": f"Bearer {key}"}
            async with httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=120.0) as client:
                first = await until(lambda: self._live(client), bool, FIRST_SECONDS)
                # One without gates is live before its features are published.
                await until(lambda: self._answers(client), bool, FIRST_SECONDS)
                self.seconds["up"] = time.monotonic() - clock
                found: dict[str, Any] = {"first": first}
                with self._timed("ask"):
                    asked = self.blueprint.ask(self.root, self._chance)
                    entity = [part for key, value in asked.entity.items() for part in ("--entity", f"{key}={value}")]
                    said = await self._command("ask", name, asked.question, *entity)
                    found["answered"] = bool(json.loads(said)["text"])
                with self._timed("batch"):
                    table, rows = self.blueprint.table
                    await self._command("batch", "run", name, "--input", table, "--output", "answered.jsonl")
                    lines = (self.root / "answered.jsonl").read_text(encoding="utf-8").splitlines()
                    found["batch"] = {"rows": rows, "answered": sum("answer_text" in line for line in lines)}
                with self._timed("outcomes"):
                    found["outcomes"] = await self._outcomes(client)
                with self._timed("improve"):
                    found["better"] = await self._improve(client)
                with self._timed("rollout"):
                    found["better"] |= await self._rolled_out(client)
                live = await self._live(client)
                with self._timed("bad"):
                    found["bad"] = await self._spoiled(client, live)
        seconds = time.monotonic() - began
        found["passed"] = (
            found["answered"]
            and found["batch"]["answered"] == found["batch"]["rows"]
            and found["outcomes"]["joined"] == found["outcomes"]["sent"]
            and found["better"]["state"] == "promoted"
            and live == found["better"]["release"]
            and found["bad"]["stopped_by"] != "nothing"
            and found["bad"]["live"] == live
        )
        return {**found, "seconds": seconds, "parts": self.seconds}

    # Parts.

    async def _outcomes(self, client: httpx2.AsyncClient) -> dict[str, int]:
        """A dozen users ask and say what came true; what of it is joined."""
        sent = joined = 0
        for _ in range(12):
            told = await self._ask(client)
            sent += len(told)
            joined += sum(one["status"] in ("joined", "duplicate") for one in told)
        return {"sent": sent, "joined": joined}

    async def _improve(self, client: httpx2.AsyncClient) -> dict[str, Any]:
        """Train, or edit the definitions and apply them; the rollout that begins."""
        name = self.blueprint.application
        if self.blueprint.improve:
            self._edit(self.blueprint.improve)
            await self._command("apply", "--rationale", "a better prompt")
        else:
            await self._command("train", name, "--probes", "12", "--rollout", "--reason", "learns what came true")
        rollout = await self._rollout(client)
        if rollout is None:
            raise RuntimeError(f"No rollout of {name} began: {await self._newest()}")
        return {"release": rollout["candidate"]}

    async def _rolled_out(self, client: httpx2.AsyncClient) -> dict[str, Any]:
        """Users ask until the rollout under way has ended; how it went."""
        rollout = await self._rollout(client)
        assert rollout is not None
        requests, moves = 0, [rollout["state"]]
        while rollout["ended_at"] is None and requests < self.blueprint.most:
            await asyncio.gather(*(self._some(client, LOOK_EVERY // AT_ONCE) for _ in range(AT_ONCE)))
            requests += LOOK_EVERY
            rollout = await self._rollout(client)
            assert rollout is not None
            state = f"{rollout['state']} {rollout['step']}" if rollout["state"] == "canary" else rollout["state"]
            moves += [state] if state != moves[-1] else []
            judged = await self._judgement(client, rollout["id"])
            print(f"  {self.blueprint.name}: {requests} requests, {judged}", file=sys.stderr, flush=True)
            if rollout["state"] == "shadow":
                await asyncio.sleep(LOOK_PAUSE)
        return {"state": rollout["state"], "requests": requests, "moves": moves, "reason": rollout["reason"]}

    async def _spoiled(self, client: httpx2.AsyncClient, live: str) -> dict[str, Any]:
        """Apply bad definitions: what stopped them, and after how many requests of users."""
        self._edit(self.blueprint.spoil)
        code, said, why = await self._process("apply", "--rationale", "a bad idea")
        release = (await self._newest())["release"]
        if release == live:
            raise RuntimeError(f"The bad definitions made no release: {said}")
        gates = json.loads(await self._command("releases", "show", release))["gates"]
        failed = [f"{one['name']}: {one['reason']}" for one in gates if one["passed"] is False]
        if failed:
            found = {"stopped_by": "gates", "metrics": failed, "requests": 0}
        elif code != 0:
            raise RuntimeError(f"The bad release could not be held against its gates: {why}")
        else:
            began = await self._rollout(client)
            if began is None or began["candidate"] != release:
                raise RuntimeError(f"The bad release passed its gates, and no rollout of it began: {said}")
            ended = await self._rolled_out(client)
            stopped = "judge" if ended["state"] == "rolled_back" else "nothing"
            found = {"stopped_by": stopped, "metrics": [ended["reason"]], **ended}
        return {**found, "live": await self._live(client)}

    # Users.

    async def _some(self, client: httpx2.AsyncClient, number: int) -> None:
        for _ in range(number):
            await self._ask(client)

    async def _ask(self, client: httpx2.AsyncClient) -> list[dict[str, Any]]:
        """One user asks, and says afterwards what came of it; what became of that."""
        asked, name = self.blueprint.ask(self.root, self._chance), self.blueprint.application
        self._users += 1
        body = {
            "model": name, "entity": asked.entity, "user": f"user-{self._users}",
            "messages": _question(asked),
        }  # fmt: skip
        answer = await client.post("/v1/chat/completions", json=body)
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {answer.text}")
        said = answer.json()
        text, prediction = said["choices"][0]["message"]["content"], said["id"]
        told = [{"application": name, "prediction": prediction, **one} for one in _feedback(asked, text)]
        became = await client.post("/v1/feedback", json={"outcomes": told})
        if became.status_code != 200:
            raise RuntimeError(f"{became.status_code}: {became.text}")
        results: list[dict[str, Any]] = became.json()["outcomes"]
        return results

    # The project.

    async def _answers(self, client: httpx2.AsyncClient) -> bool:
        asked = self.blueprint.ask(self.root, random.Random(0))
        body = {"model": self.blueprint.application, "entity": asked.entity}
        said = await client.post("/v1/chat/completions", json=body | {"messages": _question(asked)})
        return said.status_code == 200

    async def _live(self, client: httpx2.AsyncClient) -> str:
        """The live release; empty while there is none. Raises ``RuntimeError`` when the first one failed its gates."""
        listed = (await client.get("/admin/releases", params={"application": self.blueprint.application})).json()
        live = next((one["id"] for one in listed["releases"] if one["stage"] == "live"), "")
        if not live:
            await asyncio.sleep(1.0)
            checks = (await client.get("/admin/status")).json()["gates"]
            if failed := [one["sentence"] for one in checks if one["state"] in ("failed", "broken")]:
                raise RuntimeError(f"The first release {failed[0]}")
        return live

    async def _rollout(self, client: httpx2.AsyncClient) -> dict[str, Any] | None:
        """The latest rollout."""
        listed = (await client.get("/admin/rollouts", params={"application": self.blueprint.application})).json()
        found: list[dict[str, Any]] = listed["rollouts"]
        return found[0] if found else None

    async def _judgement(self, client: httpx2.AsyncClient, rollout: str) -> str:
        found = (await client.get(f"/admin/rollouts/{rollout}", params={"judgements": 1})).json()
        return str(found["judgements"][0]["sentence"] if found["judgements"] else "not judged yet")

    async def _newest(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(await self._command("releases", "list", self.blueprint.application))
        return max(found, key=lambda one: one["number"])

    def _edit(self, edits: Sequence[Edit]) -> None:
        path = self.root / "definitions.py"
        text = path.read_text(encoding="utf-8")
        for before, after in edits:
            if before not in text:
                raise RuntimeError(f"The definitions have no {before!r}.")
            text = text.replace(before, after, 1)
        path.write_text(text, encoding="utf-8")

    async def _command(self, *arguments: str, where: Path | None = None) -> str:
        """What a command says as JSON."""
        code, out, err = await self._process(*arguments, where=where)
        if code != 0:
            raise RuntimeError(f"antiphon {' '.join(arguments)} ended with {code}: {(err or out)[-1_500:]}")
        return out

    async def _process(self, *arguments: str, where: Path | None = None) -> tuple[int, str, str]:
        process = start_child(
            [sys.executable, "-m", "antiphon.cli.main", *arguments, "--json"], cwd=where or self.root,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.to_thread(process.communicate)
        return process.returncode, out.decode(), err.decode()

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[part] = round(time.monotonic() - began, 1)
        print(f"  {self.blueprint.name}: {part} took {self.seconds[part]} s", file=sys.stderr, flush=True)


def _feedback(asked: UserRequest, text: str) -> list[dict[str, Any]]:
    """What a user tells about an answer: what came true, or a thumb."""
    if THUMB in asked.truth:
        return [{"kind": "thumbs", "value": "up" if asked.truth[THUMB] in text.lower() else "down"}]
    return [{"outcome": name, "value": value} for name, value in asked.truth.items()]


def _question(asked: UserRequest) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked.question}]
