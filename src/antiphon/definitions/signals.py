"""Signals: what users do with an answer or say of it, which is sent as feedback and judged in a canary.

A thumb is one that every application has. Others are declared: an answer was copied, edited, its question resolved, its
user passed on to a person.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from antiphon.definitions.feature import duration_mistakes

MOST_VALUES = 20
_TAKEN = ("correction", "text", "error", "invalid", "latency", "first_byte", "cost", "quality")
"""Names of other feedback, and of the other metrics of a rollout."""


class Signal(msgspec.Struct, frozen=True):
    """A thing that users do with an answer, or say of it.

    Attributes:
        name: by which feedback and rollouts name it.
        good: the value, or values, that speak for an answer.
        bad: those that speak against it. One of the two may be left out: nobody sends that an answer was *not* copied.
        neutral: those that say neither.
        window: a signal that is known later than this after the prediction's moment is ``late``: counted, not joined.
    """

    name: str
    good: tuple[str, ...] | str = ()
    bad: tuple[str, ...] | str = ()
    neutral: tuple[str, ...] | str = ()
    window: str = "24h"

    def __post_init__(self) -> None:
        for side in ("good", "bad", "neutral"):
            if isinstance(value := getattr(self, side), str):
                # One value is kept as the several that it may become, so that both declare the same.
                msgspec.structs.force_setattr(self, side, (value,) if value else ())

    @property
    def values(self) -> tuple[str, ...]:
        """Every value that it may have."""
        return (*self.good, *self.bad, *self.neutral)


THUMBS = Signal("thumbs", good="up", bad="down")
"""Every application has it; one that declares a signal of this name says otherwise what counts, or its window."""


def signal_mistakes(declared: Sequence[object], outcomes: Sequence[str]) -> Iterator[str]:
    """Mistakes of declared signals, one sentence each.

    Args:
        outcomes: names of the application's outcomes.
    """
    seen: set[str] = set()
    for place, one in enumerate(declared):
        label = f"signals[{place}]"
        if not isinstance(one, Signal):
            yield f"{label} must be a Signal, not {one!r}."
            continue
        try:
            msgspec.convert(msgspec.to_builtins(one), Signal)
        except (msgspec.ValidationError, TypeError) as error:
            yield f"{label}: {error}."
            continue
        if not one.name.isidentifier():
            yield f"{label}.name {one.name!r} must be a name such as 'copied'."
        elif one.name in (*_TAKEN, *outcomes, *seen):
            yield f"{label}: the name {one.name!r} is that of something else; choose another one."
        seen.add(one.name)
        if one.name == THUMBS.name and not set(one.values) <= set(THUMBS.values):
            yield f"{label}: thumbs are {' or '.join(THUMBS.values)}; declare another signal for other values."
        if not one.good and not one.bad:
            yield f"{label}: name the values that are good, or those that are bad: without any it says nothing."
        if len(set(one.values)) < len(one.values) or not all(one.values) or len(one.values) > MOST_VALUES:
            yield f"{label}: its values are 1 to {MOST_VALUES} different texts, each good, bad or neutral."
        yield from duration_mistakes(one.window, f"{label}.window")
