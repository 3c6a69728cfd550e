"""The picture: batch throughput against what it costs online, each policy a point, the oracle a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.colocation.figures import Ceilings, Row
from benchmarks.colocation.points import SLOWDOWNS, slowdown_name

COLORS = {"ours": "tab:blue", "static": "tab:orange", "priority": "tab:red", "searched": "tab:green"}


def draw(path: Path, panels: Sequence[tuple[str, Ceilings, Sequence[Row]]]) -> None:
    """One panel for each (title, ceilings, rows), as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(6.4 * len(panels), 4.6), squeeze=False)
    for axis, (title, ceilings, rows) in zip(axes[0], panels, strict=True):
        bound = [ceilings.oracle[slowdown_name(slowdown)] for slowdown in SLOWDOWNS]
        axis.plot([1 + slowdown for slowdown in SLOWDOWNS], bound, color="black", label="oracle (not reachable)")
        axis.axhline(ceilings.gaps, color="grey", linestyle=":", label="X(1-ρ)")
        for found in rows:
            mean = found.slowdown[0]
            if mean < float("inf"):
                low, high = found.rate_interval
                axis.errorbar(
                    mean,
                    found.rate,
                    yerr=[[found.rate - low], [high - found.rate]],
                    marker="o",
                    color=COLORS.get(found.policy.split()[0].rstrip(","), "black"),
                )
                axis.annotate(found.policy, (mean, found.rate), textcoords="offset points", xytext=(6, 4), fontsize=8)
        axis.set_xscale("log")
        axis.set(title=title, xlabel="mean paired slowdown of online requests", ylabel="batch tokens a second")
        axis.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
