"""The gateway of this tree and that of an earlier revision, both running at once, on SQLite, asked by turns.

    python -m benchmarks.gateway.side_by_side REVISION [--packages DIR] [--rounds 6] [--over engine]

Two processes of one benchmark that start a minute apart differ by a fifth on a shared machine; two that run at once and
are asked alternately do not. Each has its own copy of what answers: an OpenAI-compatible server at a URL, or with
``--over engine`` the simulated engine's process. *Latency*: one request at a time, milliseconds to
the first ``data:`` and to the last byte of 16 streamed tokens, as medians of 300 pairs a round, and their ratio.
*Throughput*: requests a second of 32 connections, in slices by turns, whole and streamed answers, with the range in
which nine of ten resamples of the rounds have their median.

The side that is started second loses three percent to its own copy (a revision beside itself: first byte 1.03, whole
answers 0.96 of the requests a second), so half of the rounds start one side first and half the other; ``ratios`` are
geometric means of both halves.

A line a round, then one JSON line, kept in ``benchmarks/results/side_by_side.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gateway import contenders, saturation
from benchmarks.gateway.contenders import MODEL, Contender, Cores
from benchmarks.gateway.load import Loader, Target
from benchmarks.paired import checkout

from antiphon.core.child_process import start_child

ROOT = Path(__file__).parents[2]
ROUNDS, PAIRS, WARM_UP = 6, 300, 100
SLICE_SECONDS = 2.0
GATEWAYS = {
    "remote": """
import sys, tempfile
from pathlib import Path
from benchmarks.gateway import contenders

cores = contenders.Cores.of_this_machine()
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    with contenders.upstream(cores, folder / "upstream.log") as upstream:
        with contenders.over_remote(folder / "project", upstream, cores) as gateway:
            print(gateway.target.port, gateway.target.key, gateway.pid, flush=True)
            sys.stdin.readline()
""",
    "engine": """
import sys, tempfile
from pathlib import Path
from benchmarks.gateway import contenders

cores = contenders.Cores.of_this_machine()
with tempfile.TemporaryDirectory() as name:
    with contenders.over_engine(Path(name) / "project", cores) as (gateway, _):
        print(gateway.target.port, gateway.target.key, gateway.pid, flush=True)
        sys.stdin.readline()
""",
}
"""Programs of both sides: each runs the gateway of its own tree until its standard input ends."""


class Side:
    """One gateway: a connection that is kept, and a request that is the same for both."""

    def __init__(self, name: str, port: int, key: str, pid: int) -> None:
        self.contender = Contender(name, Target(port, key, MODEL), pid)
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asked = {"model": "simulated", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 16}
        body = json.dumps({**asked, "stream": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        self._request = f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    def ask(self) -> tuple[float, float]:
        """Milliseconds to the first piece and to the end of the answer.

        Raises:
            RuntimeError: the gateway refused, or closed the connection.
        """
        began, first, received = time.perf_counter(), 0.0, b""
        self._socket.sendall(self._request)
        while not (b"[DONE]" in received and received.endswith(b"0\r\n\r\n")):
            piece = self._socket.recv(65_536)
            received += piece
            if not piece or not received.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(received[:500].decode(errors="replace"))
            first = first or (time.perf_counter() - began if b"data:" in received else 0.0)
        return first * 1e3, (time.perf_counter() - began) * 1e3


@contextmanager
def running(name: str, tree: Path, packages: Path | None, over: str) -> Iterator[Side]:
    """The gateway of a tree before an upstream or an engine of its own."""
    paths = [str(tree / "src"), str(tree), *([str(packages.resolve())] if packages else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with start_child(
        (sys.executable, "-c", GATEWAYS[over]), cwd=tree, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port, key, pid = process.stdout.readline().split()
            yield Side(name, int(port), key, int(pid))
        finally:
            process.stdin.close()


def _throughput(stack: ExitStack, after: Side, before: Side, rounds: int) -> dict[str, Any]:
    """Requests a second of both by kind of answer; ``times_the_last`` is the ratio to the earlier revision."""
    cores = Cores.of_this_machine()
    file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "found.json"
    loader = stack.enter_context(Loader(cores.prefix(cores.others), contenders.environment(), file))
    found = saturation.measure(loader, (after.contender, before.contender), 2 * rounds, SLICE_SECONDS)
    for kind, sides in found.items():
        times, low, high = sides["after"]["times_the_last"]
        rates = [sides[name]["requests_per_second"] for name in ("before", "after")]
        print(f"{kind}: {rates[0]} requests/s before, {rates[1]} now, ratio {times:.3f} ({low:.3f} to {high:.3f})")
    return found


def _pass(
    folder: Path, options: argparse.Namespace, *, before_first: bool
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Half of the rounds, with one side started before the other; latencies by round, and throughput."""
    rounds: list[dict[str, float]] = []
    with ExitStack() as stack:

        def started(name: str) -> Side:
            places = {"before": (folder, options.packages), "after": (ROOT, None)}
            return stack.enter_context(running(name, *places[name], options.over))

        sides = {name: started(name) for name in (("before", "after") if before_first else ("after", "before"))}
        before, after = sides["before"], sides["after"]
        for _ in range(WARM_UP):
            before.ask(), after.ask()
        for _ in range(options.rounds // 2):
            figures: dict[Side, list[tuple[float, float]]] = {before: [], after: []}
            for number in range(PAIRS):
                for side in (before, after) if number % 2 else (after, before):
                    figures[side].append(side.ask())
            one: dict[str, float] = {}
            for place, name in enumerate(("first", "last")):
                old, new = (statistics.median(each[place] for each in figures[side]) for side in (before, after))
                one |= {f"{name}_before_ms": round(old, 3), f"{name}_ms": round(new, 3), name: round(new / old, 3)}
            rounds.append(one)
            print("  ".join(f"{name} {value}" for name, value in one.items()), flush=True)
        return rounds, _throughput(stack, after, before, options.rounds // 2)


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("revision", help="what git knows the earlier state by")
    parser.add_argument("--packages", type=Path, help="a folder of packages that only the revision needs")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--over", choices=sorted(GATEWAYS), default="remote", help="what answers")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder, commit = stack.enter_context(checkout(options.revision))
        passes = [_pass(folder, options, before_first=first) for first in (True, False)]
    rounds = [each for found, _ in passes for each in found]
    times = {kind: [found[kind]["after"]["times_the_last"][0] for _, found in passes] for kind in ("whole", "streamed")}
    ratios = {
        name: round(
            statistics.geometric_mean(statistics.median(each[name] for each in found) for found, _ in passes), 3
        )
        for name in ("first", "last")
    } | {kind: round(statistics.geometric_mean(found), 3) for kind, found in times.items()}
    print("  ".join(f"{name} {ratio}" for name, ratio in ratios.items()), flush=True)
    summary = {
        "benchmark": "gateway side by side",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "before": commit,
        "over": options.over,
        "pairs": len(rounds) * PAIRS,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "ratios": ratios,
        "rounds": rounds,
        "throughput": [found for _, found in passes],
    }
    line = json.dumps(summary)
    with (ROOT / "benchmarks" / "results" / "side_by_side.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
