"""Injects faults into a running platform under load and scores what it makes of them, beside rules and BARO.

Each case runs a copy of one project with two applications (the blueprints triage and desk, on the simulated engine) by
``antiphon up``: users ask, a fault is done to it from outside (``injectors``, which know nothing of detectors), and
the load generator tells if users felt it. A case without an impact is told and counts for nothing. Kinds and their
truth stand in ``seen_kinds.py`` and ``held_out.py``, the split and seeds in ``split.py``. The simulator's error is that
of ``benchmarks/operations/incidents.py`` on the kinds that both have.

    python -m benchmarks.operations.faults [--size ci|demo|full] [--kinds NAME …] [--jobs N] [--anew] [--no-baro]
        [--keep]

Each case is appended to a file, so that a run that was stopped goes on; ``--anew`` begins again. A table, then one JSON
line, kept in ``benchmarks/results/operations.jsonl``; exit code 1 when a goal is missed. Some kinds need root.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.durability.kill_harness_command import finish
from benchmarks.operations.faults import scoring
from benchmarks.operations.faults.case import CaseLasts, FaultOutcome, run_case
from benchmarks.operations.faults.project import WARM_SECONDS, make
from benchmarks.operations.faults.split import CI, KINDS, held_out, seed_of

SIZES: dict[str, dict[str, Any]] = {
    "ci": {"kinds": CI, "seeds": 1, "warm": 5.0, "lasts": CaseLasts(settle=4.0, fault=12.0, mend=0.0, known=0.0)},
    "demo": {"kinds": tuple(KINDS), "seeds": 1, "warm": WARM_SECONDS, "lasts": CaseLasts()},
    "full": {"kinds": tuple(KINDS), "seeds": 10, "warm": WARM_SECONDS, "lasts": CaseLasts()},
}
_ROOT = Path(__file__).parents[3]
_FOLDER = Path.home() / ".cache" / "antiphon-tests" / "operations"
_TRIES = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="instead of all of the size")
    parser.add_argument("--jobs", type=int, default=1, help="cases at once; each takes about a third of a core")
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="of the project that is copied and of the cases")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no case after so long")
    parser.add_argument("--anew", action="store_true", help="forget the cases of a run before")
    parser.add_argument("--no-baro", action="store_true")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    size = SIZES[options.size]
    kinds = tuple(options.kinds or size["kinds"])
    options.folder.mkdir(parents=True, exist_ok=True)
    cases = options.folder / f"cases-{options.size}.jsonl"
    if options.anew:
        cases.unlink(missing_ok=True)
    baro = None if options.no_baro else _baro()
    done = {(one.kind, one.seed): one for one in _read(cases)}
    wanted = [(kind, seed_of(kind, number)) for number in range(size["seeds"]) for kind in kinds]
    left = [one for one in wanted if one not in done]
    said(f"{len(wanted) - len(left)} of {len(wanted)} cases are there already.")
    if left:
        template = asyncio.run(_template(options.folder, size["warm"]))
        asyncio.run(_run(left, template, baro, size["lasts"], options.jobs, cases, options.minutes * 60))
        done = {(one.kind, one.seed): one for one in _read(cases)}
    outcomes = [done[one] for one in wanted if one in done]
    if len(outcomes) < len(wanted):
        said(f"{len(wanted) - len(outcomes)} cases are left; begin it again to go on.")
    sys.stdout.write(scoring.HEADER + "\n" + "".join(scoring.row(one) + "\n" for one in outcomes))
    result = scoring.result(outcomes, options.size, size["seeds"], len(kinds))
    return finish("operations", result, keep=options.keep)


async def _run(
    left: list[tuple[str, int]],
    template: Path,
    baro: Path | None,
    lasts: CaseLasts,
    jobs: int,
    cases: Path,
    seconds: float,
) -> None:
    # Processes of projects outlive this one, unless they are ended with it.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    waiting, began, ended = list(reversed(left)), time.monotonic(), 0

    async def worker() -> None:
        nonlocal ended
        while waiting and time.monotonic() - began < seconds:
            name, seed = waiting.pop()
            outcome = await _case(name, seed, template, baro, lasts)
            with cases.open("ab") as file:
                file.write(msgspec.json.encode(outcome) + b"\n")
            ended += 1
            remaining = (time.monotonic() - began) / ended * (len(left) - ended)
            said(f"{ended} of {len(left)}, {remaining / 60:.0f} min left: {scoring.row(outcome)}")

    async with asyncio.TaskGroup() as group:
        for _ in range(max(1, jobs)):
            group.create_task(worker())


async def _case(name: str, seed: int, template: Path, baro: Path | None, lasts: CaseLasts) -> FaultOutcome:
    """One case; what does not run is tried again, and then told as broken."""
    problem = ""
    for _ in range(_TRIES):
        try:
            return await run_case(KINDS[name], seed, template, baro, lasts)
        except (RuntimeError, TimeoutError, OSError) as error:
            problem = f"{type(error).__name__}: {error}".replace("\n", " ")[:300]
            said(f"{name}: {problem}")
    return FaultOutcome(
        kind=name, seed=seed, held_out=held_out(name), impact=False, questions=0, hit=0, class_="", roots=(),
        seconds=None, incidents=0, path=False, mended=False, state="", ledger=0, before=0, by_rules="", by_baro=(),
        problem=problem,
    )  # fmt: skip


async def _template(folder: Path, warm_seconds: float) -> Path:
    """The project that cases copy: the one that is there, if it was made by this source and used as long."""
    place, stamp = folder / "template", folder / "template.stamp"
    made_of = f"{warm_seconds} {_source()}"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == made_of:
        return place / "triage"
    stamp.unlink(missing_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    said(f"Making the project and asking it for {warm_seconds:.0f} s …")
    root = await make(place, warm_seconds)
    stamp.write_text(made_of, encoding="utf-8")
    return root


def _source() -> str:
    digest = hashlib.sha256()
    own = [Path(__file__).with_name(name) for name in ("project.py", "drafts.py")]
    for path in (*sorted((_ROOT / "src").rglob("*.py")), *own):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(cases: Path) -> Iterator[FaultOutcome]:
    """The cases of a file; its last line may have been cut off."""
    if not cases.is_file():
        return
    for line in cases.read_bytes().splitlines():
        try:
            yield msgspec.json.decode(line, type=FaultOutcome)
        except msgspec.DecodeError:
            said(f"{cases.name}: a line is not whole, and its case is run again.")


def _baro() -> Path:
    made = subprocess.run([str(_ROOT / "scripts" / "baro-environment")], capture_output=True, text=True)
    if made.returncode != 0:
        raise SystemExit(f"{made.stderr.strip()}\nWithout it: --no-baro.")
    return Path(made.stdout.strip())


def said(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
