"""Reads that go back: a client of several gateways over one catalog, which hands nothing on, while publications flip.

    python -m benchmarks.features.monotonic_reads [--size ci|demo|full] [--keep]

Gateways are processes with the reader that a gateway has; the client asks one of them by chance, every 2 to 10 ms, and
every hundredth time stops one (SIGSTOP) for 50 to 600 ms and asks it when it goes on. A publisher flips every 20 to
80 ms. On SQLite and on PostgreSQL, with two gateways and with four, three ways of agreeing on the publication:

- ``lease``: each gateway believes for 100 ms what it has read, and serves a publication when it has read of it.
- ``ask``: it asks the catalog for each request.
- ``announce``: what Antiphon does. A publication is announced for longer than a lease, and served by a second commit;
  between them a gateway asks for each request (ADR 0135).

Told are the reads that show an older publication than the one before, the time that a read takes, how long after its
commit a publication is seen first, and what one reading of the publications costs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from benchmarks.features.flips import BETWEEN, RESULTS, SCOPE, SEED, Flipper, Size, percentiles, start, until_served

from antiphon.catalog.database import Database
from antiphon.catalog.features.publications import LONGEST_LEASE, NOTICE, Publications


class Way(NamedTuple):
    """Seconds of a gateway's lease, and of a publication's notice."""

    lease: float
    notice: float


WAYS = {
    "lease": Way(0.1, 0.0),
    "ask": Way(0.0, 0.0),
    "announce": Way(LONGEST_LEASE, NOTICE),
}
READS = {"ci": 300, "demo": 1_000, "full": 3_000}
LONGEST = 180.0


def measure(folder: Path, catalog: str, way: Way, gateways: int, reads: int) -> dict[str, Any]:
    """Flip until a client of some gateways has read so often."""
    size = Size(0, 0, 50, 4, 0, reads, 0, LONGEST)
    flipper = Flipper(folder, "-", size, notice=way.notice, catalog=catalog)
    result, chance = folder / "client.json", random.Random(SEED)
    reader = start("client", str(folder), "-", str(result), str(reads), str(SEED), str(gateways), str(way.lease), "0")
    try:
        assert reader.stdin is not None
        reader.stdin.write("go\n")
        reader.stdin.flush()
        until = time.monotonic() + LONGEST
        while reader.poll() is None:
            if time.monotonic() > until:
                raise TimeoutError(f"The client took longer than {LONGEST:.0f} s.")
            flipper.flip()
            time.sleep(chance.uniform(*BETWEEN))
    finally:
        if reader.poll() is None:
            reader.kill()
        reader.communicate(timeout=30)
        flipper.close()
    found = json.loads(result.read_text())
    took = percentiles(found["took"])
    return {
        "reads": found["reads"],
        "backward": found["backward_without_minimum"],
        "torn": found["torn"],
        "stopped": found["stopped"],
        "flips": len(flipper.committed),
        "read_ms": took,
        "commit_to_seen_ms": percentiles(until_served(flipper.committed, found["seen"])),
    }


def cost(catalog: str, times: int = 300) -> dict[str, float]:
    """Milliseconds of one reading of the publications, with nothing announced."""
    database = Database.open(catalog)
    publications, taken = Publications(database), []
    for _ in range(times):
        began = time.perf_counter()
        publications.online(SCOPE)
        taken.append(time.perf_counter() - began)
    database.close()
    return percentiles(taken)


@contextmanager
def catalogs(kind: str) -> Iterator[Any]:
    """Makes the URL of a catalog of a kind, for a folder."""
    if kind == "sqlite":
        yield lambda folder: f"sqlite:///{folder}/catalog.db"
        return
    from tests.servers import PostgresProcess

    server = PostgresProcess()
    try:
        server.start()

        def made(folder: Path) -> str:
            server.run(f"CREATE DATABASE {folder.name}")
            return f"postgresql://{server.user}:{quote(server.password, safe='')}@127.0.0.1:{server.port}/{folder.name}"

        yield made
    finally:
        server.remove()


def run(size: str, kinds: tuple[str, ...], numbers: tuple[int, ...]) -> dict[str, Any]:
    """Measure at a size."""
    line: dict[str, Any] = {
        "benchmark": "monotonic_reads", "at": datetime.now(UTC).isoformat(timespec="seconds"), "size": size,
        "seed": SEED, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2),
        "notice_ms": NOTICE * 1e3,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="monotonic-reads-") as name:
        for kind in kinds:
            with catalogs(kind) as url_of:
                line[kind] = {}
                for gateways in numbers:
                    for way, chosen in WAYS.items():
                        folder = Path(name) / f"{kind}_{gateways}_{way}"
                        folder.mkdir()
                        catalog = url_of(folder)
                        found = measure(folder, catalog, chosen, gateways, READS[size])
                        line[kind][f"{way}, {gateways} gateways"] = found
                        _say(kind, way, gateways, found)
                line[kind]["reading_ms"] = cost(catalog)
                print(f"{kind:12} one reading of the publications: {line[kind]['reading_ms']}", flush=True)
    line["backward"] = sum(
        found["backward"] for kind in kinds for way, found in line[kind].items() if way.startswith("announce")
    )
    return line


def _say(kind: str, way: str, gateways: int, found: dict[str, Any]) -> None:
    read, seen = found["read_ms"], found["commit_to_seen_ms"]
    print(
        f"{kind:12} {way:10} {gateways} gateways: {found['backward']:4} of {found['reads']} reads went back, "
        f"read p50 {read['p50']} p99 {read['p99']} ms, seen after p50 {seen['p50']} p99 {seen['p99']} ms",
        flush=True,
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=READS, default="ci")
    parser.add_argument("--catalog", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--gateways", type=int, action="append")
    parser.add_argument("--keep", action="store_true", help="append the line to benchmarks/results")
    options = parser.parse_args(arguments)
    kinds = tuple(options.catalog or ("sqlite", "postgresql"))
    line = run(options.size, kinds, tuple(options.gateways or (2, 4)))
    print(json.dumps(line))
    if options.keep:
        with (RESULTS / "monotonic_reads.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    return 0 if not line["backward"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
