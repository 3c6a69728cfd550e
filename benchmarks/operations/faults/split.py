"""The kinds of faults, which of them are held out, and their truth; written before the first run.

:data:`SEEN` (``seen_kinds.py``) are the kinds whose results somebody has read who changes detectors: detectors may be
changed for these. Some of them are kinds of ``benchmarks/operations/incidents.py`` too; the others were held out until
they were read.
:data:`HELD_OUT` (``held_out.py``) were written by somebody who had not read the detectors, and their results are read
once: a kind that was read and worked on becomes a seen one. Seeds of one are no seeds of the other. The truth is what a
person with access to everything would say after the fault, from what the injector did and not from what the platform
measures.
"""

from __future__ import annotations

from benchmarks.operations.faults.held_out import HELD_OUT
from benchmarks.operations.faults.seen_kinds import SEEN as SEEN

FIRST_SEED_SEEN, FIRST_SEED_HELD_OUT = 20_000, 90_000

KINDS = {one.name: one for one in (*SEEN, *HELD_OUT)}

CI = ("engine_killed", "callers_mistakes")
"""Kinds of the short form."""


def held_out(kind: str) -> bool:
    """Tells whether detectors may not be changed for a kind."""
    return any(one.name == kind for one in HELD_OUT)


def seed_of(kind: str, number: int) -> int:
    """The seed of a kind's case of a number."""
    return (FIRST_SEED_HELD_OUT if held_out(kind) else FIRST_SEED_SEEN) + number
