"""Readers of published features, each in a process of its own; ``benchmarks/features/flips.py`` starts them.

``hammer FOLDER REDIS RESULT BATCHES MOVES SEED LEASE KEPT``
    Reads batches of random entities of both views until there are so many, of so many publications, and judges each
    by its values.
``serve FOLDER REDIS LEASE``
    A gateway: answers ``{"minimum": N}`` lines with the publication and the generations that it read.
``client FOLDER REDIS RESULT READS SEED GATEWAYS LEASE MINIMUM``
    Starts gateways and asks one of them by chance, at first handing its last publication on as the minimum (unless
    MINIMUM is 0), then without. Every hundredth time it stops one for a while (SIGSTOP) and asks it when it goes on.

REDIS is a URL or ``-`` for LMDB. Each prints ``ready`` and waits for a line; the first and the last write what they
found into the file RESULT.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.features.torn import generations, is_torn

from antiphon.catalog.database import Database
from antiphon.catalog.features.publications import LONGEST_LEASE, Publications
from antiphon.core.child_process import start_child
from antiphon.core.errors import UnavailableError
from antiphon.core.scope import Scope
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.lookup import FeatureReader
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
STOPPED = (0.05, 0.6)
"""Seconds for which a gateway is stopped."""


def online_store(folder: Path, redis: str) -> tuple[Any, Callable[[], None]]:
    """The store, and what closes it."""
    if redis == "-":
        store = LmdbStore(folder / "online", KEY)
        return store, store.close
    server = RedisServer(redis)
    return RedisStore(server, KEY), server.close


class Gateway:
    """What a gateway has of the feature platform."""

    def __init__(self, folder: Path, redis: str, lease: float = LONGEST_LEASE, kept: int = 4_096) -> None:
        told = json.loads((folder / "told.json").read_text())
        self.versions: Mapping[str, str] = told["versions"]
        self.entities: int = told["entities"]
        catalog = Database.open(told["catalog"])
        self.reader = FeatureReader(
            Scope(),
            publications=Publications(catalog),
            online=online_store(folder, redis)[0],
            clock=catalog.clock,
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


def serve(folder: Path, redis: str, lease: float) -> None:
    gateway = Gateway(folder, redis, lease)
    gateway.read(range(SMALL))
    print("ready", flush=True)
    for line in sys.stdin:
        minimum, began = json.loads(line)["minimum"], time.perf_counter()
        try:
            number, found = gateway.read(range(SMALL), minimum)
            answer = {"publication": number, "generation": None if is_torn(found) else next(iter(found))}
        except UnavailableError:
            answer = {"behind": True}
        answer["took"] = time.perf_counter() - began
        print(json.dumps(answer), flush=True)


class Client:
    """Asks gateways by chance, and counts what goes back."""

    def __init__(self, folder: Path, redis: str, seed: int, gateways: int, lease: float) -> None:
        command = [sys.executable, "-m", "benchmarks.features.flip_reader", "serve", str(folder), redis, str(lease)]
        self._gateways = [
            start_child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(gateways)
        ]
        self._chance = random.Random(seed)
        self.found: dict[str, Any] = {
            "reads": 0, "backward": 0, "behind": 0, "torn": 0, "backward_without_minimum": 0, "moves": 0, "stopped": 0,
        }  # fmt: skip
        self.seen: list[tuple[int, float]] = []
        self.took: list[float] = []
        for process in self._gateways:
            assert process.stdout is not None
            process.stdout.readline()

    def read(self, reads: int, *, minimum: bool) -> None:
        last = done = 0
        until = time.monotonic() + 120
        while done < reads and time.monotonic() < until:
            process = self._chance.choice(self._gateways)
            if done % 100 == 99:
                self._stop(process)
            answer = self._ask(process, last if minimum else None)
            if "behind" in answer:
                # The other gateway is further; a client comes again in a moment.
                self.found["behind"] += 1
                time.sleep(0.005)
                continue
            done += 1
            number = answer["publication"]
            if not minimum:
                self.took.append(answer["took"])
                if not self.seen or number > self.seen[-1][0]:
                    self.seen.append((number, time.monotonic()))
            time.sleep(self._chance.uniform(*PAUSE))
            self.found["torn"] += answer["generation"] is None
            self.found["moves"] += number > last
            self.found["backward" if minimum else "backward_without_minimum"] += number < last
            last = number
        self.found["reads"] = done

    def _ask(self, process: subprocess.Popen[str], minimum: int | None) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"minimum": minimum}) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        return answer

    def _stop(self, process: subprocess.Popen[str]) -> None:
        self.found["stopped"] += 1
        process.send_signal(signal.SIGSTOP)
        time.sleep(self._chance.uniform(*STOPPED))
        process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        for process in self._gateways:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)


def client(
    folder: Path, redis: str, reads: int, seed: int, gateways: int, lease: float, minimum: bool
) -> dict[str, Any]:
    one = Client(folder, redis, seed, gateways, lease)
    try:
        begin()
        for kept in (True, False) if minimum else (False,):
            one.read(reads, minimum=kept)
    finally:
        one.close()
    return {**one.found, "seen": one.seen, "took": one.took}


def main(arguments: list[str]) -> int:
    what, folder, redis = arguments[0], Path(arguments[1]), arguments[2]
    if what == "serve":
        serve(folder, redis, float(arguments[3]))
        return 0
    result, numbers = Path(arguments[3]), arguments[4:]
    if what == "hammer":
        batches, moves, seed, lease, kept = numbers
        found = hammer(folder, redis, int(batches), int(moves), int(seed), float(lease), int(kept))
    else:
        reads, seed, gateways, lease, minimum = numbers
        found = client(folder, redis, int(reads), int(seed), int(gateways), float(lease), minimum != "0")
    result.write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
