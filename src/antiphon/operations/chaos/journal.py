"""The journal of a chaos run: a file of events, one JSON object a line, that the runner and the guardians of its faults
append to.

Invariant: a line is written by one call to a file that is appended to, so that lines of several processes never mix. A
run whose runner died tells by it how far it came, and the guardians tell when its faults ended. It is a file and
not a table because the catalog may be what an experiment breaks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from antiphon.operations.chaos.experiment import Origin
from antiphon.operations.chaos.steady_state import ProbeSample
from antiphon.operations.processes import ProcessIdentity

FILE_NAME = "journal.jsonl"

_TAIL = 4_096


class _Event(msgspec.Struct, frozen=True, tag_field="event"):
    pass


class RunStart(_Event, frozen=True, tag="run"):
    """A run begins: of these experiments, by whom, why, and in which process."""

    run: str
    at: float
    principal: str
    reason: str
    tenant: str
    environment: str
    process: str
    experiments: tuple[str, ...]


class ProbeLine(msgspec.Struct, frozen=True):
    """A probe as its report needs it."""

    name: str
    tolerance: str


class ExperimentStart(_Event, frozen=True, tag="experiment"):
    """An experiment begins. ``longest``: seconds for which its degraded mode counts in a row."""

    experiment: str
    at: float
    origin: Origin
    title: str
    steady: tuple[ProbeLine, ...]
    degraded: tuple[ProbeLine, ...] | None
    degraded_title: str
    longest: float
    continuous: bool


class MethodStart(_Event, frozen=True, tag="method"):
    """The steady state was there, and what is broken is broken from now on."""

    experiment: str
    at: float


class FaultStart(_Event, frozen=True, tag="fault"):
    """A fault begins; its guardian says what it touches."""

    experiment: str
    name: str
    at: float
    fault: str
    touched: tuple[str, ...]


class FaultEnd(_Event, frozen=True, tag="fault_over"):
    """A fault is over, and why: its time, its experiment, or its runner was. ``counted``: what came of it, in words."""

    experiment: str
    name: str
    at: float
    reason: str
    counted: str = ""


class MethodEnd(_Event, frozen=True, tag="method_over"):
    """All faults are over; from now on the steady state is waited for."""

    experiment: str
    at: float


class QuestionCounts(msgspec.Struct, frozen=True):
    """Questions that were asked during an experiment, by what came of them; times in seconds."""

    sent: int = 0
    answered: int = 0
    degraded: int = 0
    refused: int = 0
    failed: int = 0
    unexplained: int = 0
    p50: float | None = None
    p95: float | None = None
    slowest: float | None = None


class ExperimentEnd(_Event, frozen=True, tag="experiment_over"):
    """An experiment is over.

    Attributes:
        ended: ``completed``, ``unsteady`` (the steady state was not there before), ``refused``, ``stopped`` at a limit,
            ``interrupted``.
        recovered: the steady state was there again in time; ``None``: not looked at.
    """

    experiment: str
    at: float
    ended: str
    reason: str = ""
    recovered: bool | None = None
    questions: QuestionCounts | None = None


class RunEnd(_Event, frozen=True, tag="run_over"):
    """The run is over."""

    at: float


JournalEvent = (
    RunStart | ExperimentStart | MethodStart | ProbeSample | FaultStart | FaultEnd | MethodEnd | ExperimentEnd | RunEnd
)

_decode = msgspec.json.Decoder(JournalEvent).decode
_encode = msgspec.json.Encoder(enc_hook=str).encode


class Journal:
    """Appends to the journal of one run."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE_NAME

    def append(self, event: JournalEvent) -> None:
        """Write an event; a disk without room costs the event, not the run."""
        try:
            descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            os.write(descriptor, _encode(event) + b"\n")
        except OSError:
            pass
        finally:
            os.close(descriptor)


def read_journal(folder: Path) -> Iterator[JournalEvent]:
    """Yields the events of a run in the order in which they were written; a line that was cut off is passed over."""
    try:
        lines = (folder / FILE_NAME).read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield _decode(line)
        except msgspec.DecodeError:
            continue


def lasting_faults(folder: Path, tenant: str) -> tuple[FaultStart, ...]:
    """The faults of a tenant's run that have not ended, while its process lives."""
    try:
        with (folder / FILE_NAME).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            if b'"event":"run_over"' in file.read():  # Most are over: they are not read from their beginning.
                return ()
    except FileNotFoundError:
        return ()
    begun: dict[tuple[str, str], FaultStart] = {}
    for event in read_journal(folder):
        match event:
            case RunStart() if event.tenant != tenant or ProcessIdentity.own().has_ended(event.process):
                return ()
            case FaultStart():
                begun[event.experiment, event.name] = event
            case FaultEnd():
                begun.pop((event.experiment, event.name), None)
    return tuple(begun.values())
