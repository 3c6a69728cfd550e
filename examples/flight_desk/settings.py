"""The declared settings of a run: ``config.toml`` as frozen values."""

from __future__ import annotations

import tomllib
from datetime import date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec

CONFIG = Path(__file__).with_name("config.toml")


class Demand(msgspec.Struct, frozen=True):
    """Who asks when; leads are minutes before the scheduled departure, times are local."""

    flights_per_day: int
    asks_per_flight: float
    mean_lead_minutes: float
    shortest_lead_minutes: float
    first_departure: str
    last_departure: str


class Sources(msgspec.Struct, frozen=True):
    """How the recorded year becomes events: declared lags in minutes, wind in mph."""

    weather_lag_minutes: int
    cancelled_after_minutes: int
    highest_wind_mph: float


class Analysis(msgspec.Struct, frozen=True):
    """What the report computes; ``age_limit_minutes`` is the one that is measured."""

    age_limit_minutes: int
    age_limits_minutes: tuple[int, ...]
    late_after_minutes: float
    train_first: date
    train_last: date
    train_rows: int
    bootstrap_rounds: int


class Size(msgspec.Struct, frozen=True):
    """How many days are replayed, and in which steps of event time."""

    first_day: date
    days: int
    tick_minutes: int


class LearningSize(msgspec.Struct, frozen=True):
    """How much the story of learning trains, asks and measures; all counts are flights, rows or questions."""

    train_examples: int
    gate_rows: int
    gate_texts: int
    measured_flights: int
    measured_notices: int
    measured_learned: bool
    flights_a_day: int
    tick_minutes: int
    rollout_questions: int
    delta_examples: int
    collected_questions: int
    bad_questions: int
    flip_questions: int
    learns_again: bool = True


class Learning(msgspec.Struct, frozen=True):
    """The story of learning: it begins at the midnight of ``start`` with the history known then."""

    start: date
    history_first: date
    bootstrap_rounds: int
    demo: LearningSize
    full: LearningSize

    def size(self, name: str) -> LearningSize:
        """The declared size of that name (``demo`` or ``full``)."""
        return {"demo": self.demo, "full": self.full}[name]


class Settings(msgspec.Struct, frozen=True):
    """The whole of ``config.toml``.

    Attributes:
        ways: the application behind each way to answer.
        plan: the minutes that the demo may take, and seconds that its parts took on the reference machine.
    """

    seed: int
    zone: str
    dawn: str
    demand: Demand
    sources: Sources
    ways: dict[str, str]
    analysis: Analysis
    demo: Size
    full: Size
    learning: Learning
    plan: dict[str, float]

    def size(self, name: str) -> Size:
        """The declared size of that name (``demo`` or ``full``)."""
        return {"demo": self.demo, "full": self.full}[name]

    def local(self, day: date, clock: str) -> datetime:
        """A local wall-clock reading such as ``"08:00"`` of a day, in UTC."""
        return datetime.combine(day, time.fromisoformat(clock), ZoneInfo(self.zone)).astimezone(ZoneInfo("UTC"))

    def days(self, size: Size) -> tuple[date, ...]:
        """The replayed days."""
        return tuple(size.first_day + timedelta(days=offset) for offset in range(size.days))

    def start(self, size: Size) -> datetime:
        """When the replay begins: events known until then are history, later ones arrive in the stream."""
        return self.local(size.first_day, "00:00")

    def end(self, size: Size) -> datetime:
        """When the last replayed day ends."""
        return self.local(size.first_day + timedelta(days=size.days), "00:00")


def load(path: Path = CONFIG) -> Settings:
    """Read the settings.

    Raises:
        msgspec.ValidationError: a section or field is missing or has a wrong type.
    """
    return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Settings)
