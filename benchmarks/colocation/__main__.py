"""Batch beside online: every policy on the same arrivals, held against batch alone and a clairvoyant oracle.

    python -m benchmarks.colocation --size ci|demo|full [--no-real] [--no-simulated] [--calibration FILE] [--runs FILE]
                                    [--record]

A table for each trace, a plot, one JSON line last. What was simulated is marked as such. ``ci`` takes seconds and needs
no model: it simulates the reference machine. ``demo`` takes ten to fifteen minutes and ``full`` hours: both measure
this machine first and run the real engine too, for which nothing else should run here.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.colocation import calibration as calibrations
from benchmarks.colocation import figures, plot, search, validate
from benchmarks.colocation.calibration import Calibration
from benchmarks.colocation.compare import Told, compared, simulated
from benchmarks.colocation.figures import Ceilings, Row
from benchmarks.colocation.goals import goals, told
from benchmarks.colocation.kept_runs import KeptRuns
from benchmarks.colocation.load import LEAST_WITHIN, MOST_BUSY, bearable
from benchmarks.colocation.points import CONTENDERS, SIZES, Size, slowdown_name
from benchmarks.colocation.real import MODEL, real_runs
from benchmarks.colocation.traces import SCALING, Scaling, pieces

from antiphon.engine.execution.runtime import Layout

Panel = tuple[str, Ceilings, list[Row]]

RESULTS = Path(__file__).parents[1] / "results" / "colocation.jsonl"


def main() -> int:
    options = _options()
    size = SIZES[options.size]
    began = time.monotonic()

    def progress(text: str) -> None:
        print(f"  {time.monotonic() - began:6.1f} s  {text}", file=sys.stderr, flush=True)

    calibration = _calibration(options, size.calibrate_seconds, progress)
    envelope = calibration.envelope
    print(f"{calibration.model} on {calibration.machine}, measured {calibration.at}; at the least,")
    print(f"a decode call takes {envelope.alpha * 1e3:.2f} ms + {envelope.beta * 1e3:.2f} ms a sequence,", end=" ")
    print(f"a prompt token {envelope.gamma * 1e3:.2f} ms, a context token read {envelope.delta * 1e6:.2f} µs;")
    print(f"between its points the table is {calibration.residual:.1%} off")
    every = {*size.traces, *size.real_traces} if options.simulated else set(size.real_traces)
    # The reference machine bears the declared load.
    scalings = {trace: bearable(calibration, trace) if size.calibrate_seconds else SCALING[trace] for trace in every}
    for trace, scaling in scalings.items():
        progress(
            f"{trace}: {scaling.rate:.1%} of the arrivals, {scaling.prompt:.1%} of their prompts: online alone is busy "
            f"for at most {MOST_BUSY:.0%} of the time and keeps its service level in {LEAST_WITHIN:.0%} of the requests"
        )
    panels: list[Panel] = []
    tables: dict[str, Any] = {}
    real_tables: dict[str, Any] = {}
    for trace in size.real_traces if options.real else ():
        panel, real_tables[trace] = _real(options, calibration, trace, scalings[trace], progress)
        panels.append(panel)
    for trace in size.traces if options.simulated else ():
        panel, tables[trace] = _simulated(size, calibration, trace, scalings[trace], progress)
        panels.append(panel)
    rows_of_all = [found for table in (*tables.values(), *real_tables.values()) for found in table["rows"]]
    sound = not any(found["beaten"] for found in rows_of_all)
    print(f"\nNo run beat the bound of the service it gave: {sound}.")
    if options.plot is not None:
        plot.draw(options.plot, panels)
    line = {
        "benchmark": "colocation", "at": datetime.now(UTC).isoformat(timespec="seconds"), "size": options.size,
        "calibration": msgspec.to_builtins(envelope) | {"at": calibration.at, "model": calibration.model},
        "scaling": {trace: msgspec.to_builtins(scaling) for trace, scaling in scalings.items()}, "seeds": size.seeds,
        "seconds": size.seconds, "simulated": tables, "real": real_tables,
        "piece_seconds": size.piece_seconds * bool(real_tables),
        "sound": sound,
        "took": round(time.monotonic() - began, 1),
    }  # fmt: skip
    text = json.dumps(line)
    if options.record:
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a") as results:
            results.write(text + "\n")
    print(text)
    return 0 if sound else 1


def _real(
    options: argparse.Namespace, calibration: Calibration, trace: str, scaling: Scaling, progress: Told
) -> tuple[Panel, dict[str, Any]]:
    """One trace on the real engine, and how far the simulator is from it."""
    size = SIZES[options.size]
    really = [contender for contender in CONTENDERS if contender.name in size.real]
    windows = pieces(trace, size.real_seeds, size.real_seconds, size.piece_seconds, scaling)
    seconds = size.real_seconds * len(size.real_seeds) / len(windows)
    windows = dict(islice(windows.items(), options.windows))
    kept = partial(KeptRuns(options.runs).run, trace, scaling)
    runs, alone = real_runs(really, trace, windows, seconds, threads=options.threads, kept=kept, told=progress)
    ceilings, rows = compared(calibration, trace, runs, alone, bucket=size.bucket, told=progress)
    print_table(f"{trace}, real, {len(windows)} windows of {seconds:.0f} s", ceilings, rows)
    for found in rows:
        if found.overhead is not None and found.wasted is not None:
            print(f"{found.policy}: {found.overhead:.1%} of the engine's time in its own code", end=", ")
            print(f"{found.wasted:.1%} in calls that were given up", end=", ")
            print(f"calls took {found.pace or 0.0:.2f} times the least that they take")
    off = validate.errors(calibration, windows, runs)
    late = max(run.latest_sending for each in runs.values() for run in each)
    print(f"\n{validate.table(off)}\nrequests were sent up to {late * 1e3:.0f} ms late")
    told = as_json(ceilings, rows) | {"simulator_error": off, "latest_sending": round(late, 4)}
    return (f"{trace}, real", ceilings, rows), told


def _simulated(
    size: Size, calibration: Calibration, trace: str, scaling: Scaling, progress: Told
) -> tuple[Panel, dict[str, Any]]:
    """One trace in the simulator, beside the best causal policies that a search finds there."""
    found: dict[float, search.Tried] = {}
    if size.candidates:
        found = search.search(
            calibration, trace, candidates=size.candidates, seconds=size.search_seconds, scaling=scaling, told=progress
        )
    contenders = (*CONTENDERS, *search.contenders(calibration, found))
    ceilings, rows = simulated(
        calibration, trace, size.seeds, size.seconds,
        scaling=scaling, contenders=contenders, bucket=size.bucket, told=progress,
    )  # fmt: skip
    print_table(f"{trace}, simulated, {len(size.seeds)} windows of {size.seconds:.0f} s", ceilings, rows)
    searched = {slowdown_name(slowdown): asdict(tried.knobs) for slowdown, tried in found.items()}
    return (f"{trace}, simulated", ceilings, rows), as_json(ceilings, rows) | {"searched": searched}


def print_table(title: str, ceilings: Ceilings, rows: list[Row]) -> None:
    """The table of one trace."""
    print(f"\n{title}; {rows[0].requests} online requests, within: TTFT at most 1 s and TPOT at most 100 ms")
    print(
        f"X = {ceilings.alone:.1f} batch tok/s alone, ρ = {ceilings.rho:.2f}, X(1-ρ) = {ceilings.gaps:.1f}; oracle: ",
        end="",
    )
    print(", ".join(f"{name} {bound:.1f}" for name, bound in ceilings.oracle.items()))
    print(figures.HEAD)
    for found in rows:
        print(figures.line(found))
    print("own: share of the most that any scheduler could have done with the service that this policy gave")
    print(told(goals(rows)))


def as_json(ceilings: Ceilings, rows: list[Row]) -> dict[str, Any]:
    """One trace in the JSON line."""
    return {
        "alone": round(ceilings.alone, 2), "rho": round(ceilings.rho, 4), "gaps": round(ceilings.gaps, 2),
        "oracle": {name: round(bound, 2) for name, bound in ceilings.oracle.items()},
        "rows": [found.as_json() for found in rows], "goals": goals(rows),
    }  # fmt: skip


def _calibration(options: argparse.Namespace, seconds: float, told: Told) -> Calibration:
    """The one that was named and is there; otherwise measured and written there; or the reference machine."""
    path = options.calibration
    if path is not None and path.exists():
        return calibrations.read(path)
    if not seconds:
        return calibrations.reference()
    from antiphon.engine import weights
    from antiphon.engine.backends.llamacpp.runtime import LlamaCpp

    runtime = LlamaCpp(MODEL, weights.resolve(str(weights.pull(MODEL))), Layout(), threads=options.threads)
    try:
        measured = calibrations.measure(runtime, seconds)
    finally:
        runtime.close()
    told("this machine is measured")
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(measured)))
    return measured


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.colocation", description="Judges the step scheduler.")
    parser.add_argument("--size", choices=sorted(SIZES), default="ci")
    parser.add_argument("--calibration", type=Path, help="read from this file, or measured and written to it")
    parser.add_argument("--no-real", dest="real", action="store_false", help="only the simulator")
    parser.add_argument("--no-simulated", dest="simulated", action="store_false", help="only the real engine")
    parser.add_argument("--threads", type=int, default=2, help="of the engine")
    parser.add_argument("--runs", type=Path, help="keep real runs in this file, and do not repeat those that are in it")
    parser.add_argument("--windows", type=int, help="only so many windows of the real runs")
    parser.add_argument("--plot", type=Path, help="write the picture to this SVG file")
    parser.add_argument("--record", action="store_true", help="append the JSON line to benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # It ends the engine that it started.
    sys.exit(main())
