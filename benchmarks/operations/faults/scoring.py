"""Scores of cases: shares over held-out kinds, and beside them the rivals' and the simulator's."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from benchmarks.operations import incidents as simulated
from benchmarks.operations.faults.case import FaultOutcome, median
from benchmarks.operations.faults.rivals import class_of
from benchmarks.operations.faults.split import KINDS

from antiphon.catalog.incidents import NO_CAUSE

GOALS = {
    "class_accuracy": 0.95,
    "root_set_exact": 0.8,
    "innocents_blamed": 0.05,
    "median_detection_s": 30.0,
    "mended_alone": 0.8,
}


class FaultFigures(msgspec.Struct, frozen=True):
    """Shares over cases; of a share of nothing ``None``.

    ``mended_alone`` is over the faults that only the platform can mend: others end whatever it does.
    """

    cases: int
    class_accuracy: float | None
    root_set_exact: float | None
    path_there: float | None
    found: float | None
    one_incident: float | None
    median_detection_s: float | None
    mended_alone: float | None
    rules_class_accuracy: float | None
    baro_class_accuracy: float | None
    baro_root_set_exact: float | None
    baro_root_among_five: float | None


def figures(outcomes: Sequence[FaultOutcome]) -> FaultFigures:
    """The figures of cases with a cause and an impact, with the class of those without a cause."""
    counted = [one for one in outcomes if one.impact and not one.problem]
    guilty = [one for one in counted if not KINDS[one.kind].innocent]
    ranked = [one for one in guilty if one.by_baro]
    return FaultFigures(
        cases=len(counted),
        class_accuracy=share(one.class_ == KINDS[one.kind].class_ for one in counted),
        root_set_exact=share(frozenset(one.roots) == KINDS[one.kind].roots for one in guilty),
        path_there=share(one.path for one in guilty if one.roots),
        found=share(one.seconds is not None for one in guilty),
        one_incident=share(one.incidents == 1 for one in guilty if one.seconds is not None),
        median_detection_s=median([one.seconds for one in guilty if one.seconds is not None]),
        mended_alone=share(one.mended for one in guilty if KINDS[one.kind].ends == "platform"),
        rules_class_accuracy=share(one.by_rules == KINDS[one.kind].class_ for one in counted),
        baro_class_accuracy=share(class_of(one.by_baro[0]) == KINDS[one.kind].class_ for one in ranked),
        baro_root_set_exact=share(frozenset(one.by_baro[:1]) == KINDS[one.kind].roots for one in ranked),
        baro_root_among_five=share(bool(KINDS[one.kind].roots & set(one.by_baro)) for one in ranked),
    )


def blamed(outcomes: Iterable[FaultOutcome]) -> float | None:
    """The share of cases without a cause in which something of the platform is blamed."""
    return share(bool(one.roots) for one in outcomes if KINDS[one.kind].innocent and not one.problem)


def simulator_error(outcomes: Sequence[FaultOutcome], seeds: int = 3) -> dict[str, float | None]:
    """The figures of the simulator less those of the platform, over the kinds that both have."""
    pairs = [(one, KINDS[one.kind].simulated) for one in outcomes if KINDS[one.kind].simulated and one.impact]
    if not pairs:
        return {"kinds": 0, "class_accuracy": None, "root_set_exact": None, "detection_s": None}
    same = {name: [simulated.case(name, 40_000 + seed) for seed in range(seeds)] for _, name in pairs}
    of_simulator = [(one, *simulated.FAULTS[name][1:]) for name, cases in same.items() for one in cases]
    real = figures([one for one, _ in pairs])
    guilty = [(one, roots) for one, _, roots in of_simulator if roots]
    delays = [one.seconds for one, roots in guilty if one.seconds is not None]
    classes, exact = (
        share(one.class_ == class_ for one, class_, _ in of_simulator),
        share(one.roots == roots for one, roots in guilty),
    )
    return {
        "kinds": len(same),
        "class_accuracy": _less(classes, real.class_accuracy),
        "root_set_exact": _less(exact, real.root_set_exact),
        "detection_s": _less(statistics.median(delays) if delays else None, real.median_detection_s),
    }


def result(outcomes: Sequence[FaultOutcome], size: str, seeds: int, kinds: int) -> dict[str, Any]:
    """The line of a run: figures over held-out kinds where there are any, and those of the others beside."""
    held = [one for one in outcomes if one.held_out]
    of_held, of_seen = figures(held), figures([one for one in outcomes if not one.held_out])
    everything = figures(outcomes)
    line: dict[str, Any] = {
        "benchmark": "operations", "size": size, "seeds": seeds, "kinds": kinds, "cases": len(outcomes),
        "without_impact": sum(not one.impact for one in outcomes),
        "broken": sum(bool(one.problem) for one in outcomes),
        "class_accuracy": of_held.class_accuracy,
        "root_set_exact": of_held.root_set_exact,
        "path_there": of_held.path_there,
        "innocents_blamed": blamed(outcomes),
        "ledger_difference": sum(one.ledger for one in outcomes),
        "median_detection_s": everything.median_detection_s,
        "mended_alone": everything.mended_alone,
        "found": of_held.found,
        "one_incident": everything.one_incident,
        "seen_class_accuracy": of_seen.class_accuracy,
        "seen_root_set_exact": of_seen.root_set_exact,
        "rules_class_accuracy": of_held.rules_class_accuracy,
        "baro_class_accuracy": of_held.baro_class_accuracy,
        "baro_root_set_exact": of_held.baro_root_set_exact,
        "baro_root_among_five": of_held.baro_root_among_five,
        "simulator_error": simulator_error(outcomes),
    }  # fmt: skip
    line["holds"] = bool(
        (line["innocents_blamed"] or 0.0) <= GOALS["innocents_blamed"]
        and (line["class_accuracy"] is None or line["class_accuracy"] >= GOALS["class_accuracy"])
        and (line["root_set_exact"] is None or line["root_set_exact"] >= GOALS["root_set_exact"])
        and (line["median_detection_s"] is None or line["median_detection_s"] < GOALS["median_detection_s"])
        and (line["mended_alone"] is None or line["mended_alone"] >= GOALS["mended_alone"])
        and line["ledger_difference"] == 0
        and not line["broken"]
    )
    return line


def row(one: FaultOutcome) -> str:
    """A case as a line of the table."""
    kind = KINDS[one.kind]
    right = "yes" if one.class_ == kind.class_ else f"no: {one.class_}"
    exact = "yes" if frozenset(one.roots) == kind.roots else f"no: {', '.join(one.roots) or 'none'}"
    found = "-" if one.seconds is None else f"{one.seconds:.1f}"
    felt = f"{one.hit}/{one.questions}" + ("" if one.impact else " no impact")
    return (
        f"{one.kind:28} {'yes' if one.held_out else 'no':8} {felt:>18} {found:>8} {right:28} {exact:40} "
        f"{one.incidents:>3} {'yes' if one.mended else 'no':6} {one.by_rules == kind.class_!s:6} "
        f"{', '.join(one.by_baro[:1])} {one.problem}"
    ).rstrip()


HEADER = (
    f"{'kind':28} {'held out':8} {'felt by users':>18} {'found s':>8} {'class right':28} {'root set exact':40} "
    f"{'inc':>3} {'mended':6} {'rules':6} BARO"
)


def share(values: Iterable[bool]) -> float | None:
    """The share that is true, to thousandths."""
    listed = list(values)
    return round(sum(listed) / len(listed), 3) if listed else None


def _less(simulated_figure: float | None, real: float | None) -> float | None:
    return None if simulated_figure is None or real is None else round(simulated_figure - real, 3)


assert all(kind.class_ != NO_CAUSE or kind.innocent for kind in KINDS.values())
