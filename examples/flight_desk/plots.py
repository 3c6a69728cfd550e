"""The report's plots as inline SVG."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy

from antiphon.catalog.learning.evaluations import IntervalEstimate
from examples.flight_desk.findings import Findings

NAMES = {"briefing": "batch only", "online": "online only", "age": "age limit", "fingerprint": "fingerprint"}
COLORS = {"briefing": "#8a5a00", "online": "#1f5fa8", "age": "#8c8c8c", "fingerprint": "#0f7b53"}
MARKERS = {"briefing": "s", "online": "^", "age": "D", "fingerprint": "o"}


def falsehood_against_cost(findings: Findings) -> str:
    """Four points with their intervals, and the curve of all age limits."""

    def draw(axes: Any) -> None:
        points = sorted(findings.sweep, key=lambda point: point.tokens_per_answer)
        curve = ([point.tokens_per_answer for point in points], [point.false for point in points])
        axes.plot(*curve, color=COLORS["age"], linewidth=1.2, marker=".", label="every age limit")
        for point in points:
            if point.minutes in {5, 15, 30, 60, 120}:
                place = (point.tokens_per_answer, point.false)
                axes.annotate(f"{point.minutes:.0f} min", place, (4, 5), textcoords="offset points", fontsize=7)
        for way in findings.ways:
            cost, false = way.tokens_per_answer, way.false
            look = {"fmt": MARKERS[way.way], "color": COLORS[way.way], "label": NAMES[way.way], "capsize": 3}
            axes.errorbar([cost.value], [false.value], xerr=error(cost), yerr=error(false), **look)
        axes.set_xlabel("tokens generated per answer")
        axes.set_ylabel("false statements per 1,000 answers")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.legend(frameon=False, fontsize=8)

    return figure(draw, "Falsehood against cost: four ways and the curve of all age limits", 6.4, 3.8)


def why_false(findings: Findings) -> str:
    """The reasons, stacked, per way."""

    def draw(axes: Any) -> None:
        names = [NAMES[way.way] for way in findings.ways]
        bottom = numpy.zeros(len(names))
        for kind, label, color in (
            ("written", "false when written", "#b3261e"),
            ("stale", "gone stale", "#e0a100"),
            ("lag", "late by the event's lag", "#7a8ea8"),
        ):
            heights = numpy.array([getattr(way, kind).value for way in findings.ways])
            axes.bar(names, heights, bottom=bottom, color=color, label=label, width=0.6)
            bottom += heights
        axes.set_ylabel("per 1,000 answers")
        axes.legend(frameon=False, fontsize=8)

    return figure(draw, "False statements by reason, per way", 4.6, 3.2)


def latency(findings: Findings) -> str:
    """How many answers had come after so many seconds."""

    def draw(axes: Any) -> None:
        for way, seconds in findings.latencies.items():
            ordered = numpy.sort(numpy.array(seconds))
            if len(ordered):
                share = numpy.arange(1, len(ordered) + 1) / len(ordered)
                axes.step(ordered, share, color=COLORS[way], label=NAMES[way], where="post")
        axes.set_xscale("log")
        axes.set_xlabel("seconds at the client")
        axes.set_ylabel("share of answers")
        axes.set_ylim(0, 1.01)
        axes.legend(frameon=False, fontsize=8)

    return figure(draw, "Cumulative distribution of latency, per way", 4.6, 3.2)


def reliability(findings: Findings) -> str:
    """Forecast against what happened, in tenths; the size of a point is its number of rows."""

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color="#b0b0b0", linewidth=1, linestyle="--")
        known = findings.scored.reliability.items() if findings.scored else ()
        for (name, bins), color in zip(known, ("#0f7b53", "#8c8c8c", "#1f5fa8"), strict=False):
            curve, rows = (
                ([one.forecast for one in bins], [one.observed for one in bins]),
                sum(one.rows for one in bins),
            )
            axes.plot(*curve, color=color, linewidth=0.8)
            axes.scatter(*curve, s=[8 + 90 * one.rows / rows for one in bins], color=color, label=name)
        axes.set_xlabel("forecast probability of delayed")
        axes.set_ylabel("share that left late")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.legend(frameon=False, fontsize=7)

    return figure(draw, "Reliability of the outlook", 4.6, 3.6)


def timeline(findings: Findings) -> str:
    """Stale statements by the hour they were read in."""

    def draw(axes: Any) -> None:
        for way in NAMES:
            hours = [hour for hour in findings.hours if hour.way == way]
            # A line is broken at night, when nobody asks.
            breaks = [place for place in range(1, len(hours)) if hours[place].hour - hours[place - 1].hour > 2]
            for first, last in zip([0, *breaks], [*breaks, len(hours)], strict=True):
                line = ([hour.hour for hour in hours[first:last]], [hour.stale for hour in hours[first:last]])
                axes.plot(*line, color=COLORS[way], marker=MARKERS[way], markersize=3, linewidth=1.2)
        end = int(max((hour.hour for hour in findings.hours), default=24))
        axes.set_xticks(range(0, end + 12, 12 if end < 100 else 24 * 5))
        axes.set_xlabel("hours since the first midnight (local)")
        axes.set_ylabel("stale per 1,000 answers")
        handles = [axes.plot([], [], color=COLORS[way], marker=MARKERS[way], markersize=3)[0] for way in NAMES]
        axes.legend(handles, NAMES.values(), frameon=False, fontsize=8)

    return figure(draw, "Stale statements by the hour they were read in", 9.4, 2.8)


def error(interval: IntervalEstimate) -> list[list[float]]:
    """An interval as the lengths of an error bar."""
    return [[max(0, interval.value - interval.low)], [max(0, interval.high - interval.value)]]


def figure(draw: Callable[[Any], None], title: str, width: float, height: float) -> str:
    """Draw on fresh axes; the title is the image's text for those who do not see it."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "flight-desk", "font.size": 9}):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        draw(axes)
        FigureCanvasSVG(figure)
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    svg = content.getvalue()
    return svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
