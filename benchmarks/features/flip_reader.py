"""Readers of published features, each in a process of its own; ``benchmarks/features/flips.py`` starts them.

``hammer FOLDER REDIS RESULT BATCHES MOVES SEED LEASE KEPT``
    Reads batches of random entities of both views until there are so many, of so many publications, and judges each
    by its values.
``serve FOLDER REDIS``
    A gateway: answers ``{"minimum": N}`` lines with the publication and the generations that it read.
``client FOLDER REDIS RESULT READS SEED``
    Starts two gateways and asks either by chance, handing its last publication on as the minimum; then without.

REDIS is a URL or ``-`` for LMDB. Each prints ``ready`` and waits for a line; the first and the last write what they
found into the file RESULT.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.features.torn import generations, is_torn

from antiphon.catalog.database import Database
from antiphon.catalog.features.publications import Publications
from antiphon.core.child_process import start_child
from antiphon.core.clock import SystemClock
from antiphon.core.errors import UnavailableError
from antiphon.core.scope import Scope
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.lookup import LEASE_SECONDS, FeatureReader
from antiphon.features.online.redis.server import RedisServer
from antiphon.features.online.redis.store import RedisStore

VIEWS = ("left", "right")
KEY = b"k" * 32
ASKED_AT = datetime(2024, 1, 3, tzinfo=UTC)
"""After the last generation, so that every snapshot tells all it knows."""
PAUSE = (0.002, 0.01)
"""Seconds between two reads of a client, so that they span many leases."""
SMALL = 3
"""Entities of each view that a client asks about."""


def online_store(folder: Path, redis: str) -> tuple[Any, Callable[[], None]]:
    """The store, and what closes it."""
    if redis == "-":
        store = LmdbStore(folder / "online", KEY)
        return store, store.close
    server = RedisServer(redis)
    return RedisStore(server, KEY), server.close


class Gateway:
    """What a gateway has of the feature platform."""

    def __init__(self, folder: Path, redis: str, lease: float = LEASE_SECONDS, kept: int = 4_096) -> None:
        told = json.loads((folder / "told.json").read_text())
        self.versions: Mapping[str, str] = told["versions"]
        self.entities: int = told["entities"]
        clock = SystemClock()
        self.reader = FeatureReader(
            Scope(),
            publications=Publications(Database.open(f"sqlite:///{folder}/catalog.db", clock=clock)),
            online=online_store(folder, redis)[0],
            clock=clock,
            lease=lease,
            kept=kept,
        )

    def read(self, entities: Sequence[int], minimum: int | None = None) -> tuple[int, set[int | None]]:
        """The publication that a batch says it is of, and the generations that its values are of."""
        keys = [{"entity": str(entity)} for entity in entities]
        vectors = self.reader.read_many(self.versions, keys, ASKED_AT, minimum)
        values = [{name: item.value for name, item in vector.values.items()} for vector in vectors]
        (number,) = {vector.publication for vector in vectors}
        assert number is not None
        return number, generations(values, VIEWS)


def begin() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def hammer(folder: Path, redis: str, batches: int, moves: int, seed: int, lease: float, kept: int) -> dict[str, Any]:
    gateway, chance = Gateway(folder, redis, lease, kept), random.Random(seed)
    many = min(50, gateway.entities)
    gateway.read([0])
    begin()
    read = torn = backward = last = 0
    seen: list[tuple[int, float]] = []
    told: dict[int, int] = {}
    wrong: list[list[int]] = []
    while read < batches or len(seen) <= moves:
        read += 1
        number, found = gateway.read(chance.sample(range(gateway.entities), many))
        torn += is_torn(found)
        if number != last:
            seen.append((number, time.monotonic()))
            backward += number < last
            last = number
        if not is_torn(found):
            (generation,) = found
            assert generation is not None
            if told.setdefault(number, generation) != generation:
                wrong.append([number, generation])
    found = {"batches": read, "torn": torn, "backward": backward, "wrong": wrong}
    return {**found, "seen": seen, "told": sorted(told.items())}


def serve(folder: Path, redis: str) -> None:
    gateway = Gateway(folder, redis)
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            number, found = gateway.read(range(SMALL), json.loads(line)["minimum"])
            answer = {"publication": number, "generation": None if is_torn(found) else next(iter(found))}
        except UnavailableError:
            answer = {"behind": True}
        print(json.dumps(answer), flush=True)


def client(folder: Path, redis: str, reads: int, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.features.flip_reader", "serve", str(folder), redis]
    gateways = [start_child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    chance = random.Random(seed)
    found = {"reads": reads, "backward": 0, "behind": 0, "torn": 0, "backward_without_minimum": 0, "moves": 0}

    def ask(which: int, minimum: int | None) -> dict[str, Any]:
        process = gateways[which]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"minimum": minimum}) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        return answer

    try:
        for process in gateways:
            assert process.stdout is not None
            process.stdout.readline()
        begin()
        for kept in (True, False):
            last = done = 0
            until = time.monotonic() + 60
            while done < reads and time.monotonic() < until:
                answer = ask(chance.randrange(2), last if kept else None)
                if "behind" in answer:
                    # The other gateway is further; a client comes again in a moment.
                    found["behind"] += 1
                    time.sleep(0.005)
                    continue
                done += 1
                time.sleep(chance.uniform(*PAUSE))
                number = answer["publication"]
                found["torn"] += answer["generation"] is None
                found["moves"] += kept and number > last
                found["backward" if kept else "backward_without_minimum"] += number < last
                last = number
            if kept:
                found["reads"] = done
    finally:
        for process in gateways:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)
    return found


def main(arguments: list[str]) -> int:
    what, folder, redis = arguments[0], Path(arguments[1]), arguments[2]
    if what == "serve":
        serve(folder, redis)
        return 0
    result, numbers = Path(arguments[3]), arguments[4:]
    if what == "hammer":
        batches, moves, seed, lease, kept = numbers
        found = hammer(folder, redis, int(batches), int(moves), int(seed), float(lease), int(kept))
    else:
        found = client(folder, redis, int(numbers[0]), int(numbers[1]))
    result.write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
