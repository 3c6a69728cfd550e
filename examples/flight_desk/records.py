"""What a run leaves behind: one line per answer, so that the analysis can be done again without the platform."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

T = TypeVar("T")


class Answered(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer as the client saw it.

    Attributes:
        way: ``briefing``, ``online``, ``age`` or ``fingerprint``.
        path: ``online`` answers a question; ``batch`` is a row of the dawn briefing.
        question: id of the question; of a briefing row, the flight's.
        flight: event id of the flight: what the intervals are clustered by.
        asked: event time of the question (``as_of``).
        made: generated for it, copied from an identical prompt, or served from store.
        source: the prediction a reused answer was first made as.
        tokens: completion tokens of all attempts, 0 for a reused answer.
        seconds: wall time at the client, ``None`` for a briefing row.
        delayed: the model's probability of the outlook ``delayed``.
        guard: what the guard on figures did last: pass, retry or template.
        release: the one that answered.
        error: why there is no answer.
    """

    way: str
    path: Literal["online", "batch"]
    question: str
    flight: str
    day: date
    origin: str
    carrier: str
    dest: str
    asked: datetime
    prediction: str = ""
    made: Literal["generated", "identical-prompt", "stored"] = "generated"
    source: str | None = None
    text: str = ""
    delayed: float | None = None
    guard: str | None = None
    tokens: int = 0
    seconds: float | None = None
    release: str | None = None
    error: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes a second line of the same answer superfluous."""
        return (self.way, self.path, self.question)

    @property
    def subject(self) -> tuple[str, str, str]:
        """The entity that was asked about."""
        return (self.origin, self.carrier, self.dest)

    @property
    def notice(self) -> str:
        """The notice inside the answer's JSON; empty when there is none."""
        try:
            output = msgspec.json.decode(self.text)
        except msgspec.DecodeError:
            return ""
        notice = output.get("notice") if isinstance(output, dict) else None
        return notice if isinstance(notice, str) else ""


class Lag(msgspec.Struct, frozen=True):
    """How long events took from being sent to being servable: wall seconds of one tick."""

    until: datetime
    events: int
    seconds: float


class Journal:
    """Appends lines to ``answers.jsonl`` and ``lags.jsonl`` in a folder and reads them back.

    A line cut off by a crash is dropped; of two lines of one answer the first counts.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._answers = folder / "answers.jsonl"
        self._lags = folder / "lags.jsonl"
        for path in (self._answers, self._lags):
            content = path.read_bytes() if path.exists() else b""
            if not content.endswith(b"\n"):
                path.write_bytes(content[: content.rfind(b"\n") + 1])

    def add(self, answers: Iterable[Answered]) -> None:
        """Keep these answers before anything else is asked."""
        _append(self._answers, answers)

    def add_lag(self, lag: Lag) -> None:
        """Keep one measurement."""
        _append(self._lags, [lag])

    def answers(self) -> tuple[Answered, ...]:
        """Every answer kept, each once."""
        kept: dict[tuple[str, str, str], Answered] = {}
        for answer in _lines(self._answers, Answered):
            kept.setdefault(answer.key, answer)
        return tuple(kept.values())

    def lags(self) -> tuple[Lag, ...]:
        """Every measurement kept."""
        return _lines(self._lags, Lag)


def _append(path: Path, values: Iterable[msgspec.Struct]) -> None:
    with path.open("ab") as out:
        out.write(msgspec.json.Encoder().encode_lines(values))


def _lines(path: Path, shape: type[T]) -> tuple[T, ...]:
    return tuple(msgspec.json.Decoder(shape).decode_lines(path.read_bytes()))
