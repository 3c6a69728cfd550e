"""Watches of live releases: what is measured of a release after its promotion, and what may be done when it turns bad.

A watch is declared beside its application and is no part of it, so that no release changes with one. An application
that declares none has that of :func:`usual_watch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import Application
from antiphon.definitions.place import caller, declared
from antiphon.definitions.quality import WATCH_ACTIONS, WatchAction

WatchMode = Literal["act", "tell", "off"]

WATCH_MODES: tuple[WatchMode, ...] = get_args(WatchMode)

COUNTED = ("errors", "invalid", "first_byte", "latency")
"""Measures that are shares of requests."""

WATCHED = (*COUNTED, "quality", "calibration", "outputs")
"""Measures of every release; the values of each of its views are one more, with the view's own action."""

_SHARES = ("alpha", "invalid_share", "quality_margin", "calibration_margin", "drift_margin")


class WatchSpec(msgspec.Struct, frozen=True):
    """A declared watch.

    Attributes:
        name: the application's.
        mode: ``act`` does what is declared; ``tell`` is a dry run, which tells what would be done; ``off`` measures
            nothing.
        errors: requests that the platform failed. invalid: answers that a guard had to replace. first_byte, latency:
            generated answers that came later than the service level. quality: the loss by the first outcome.
            calibration: forecasts beside what came true. outputs: what is answered, beside the evaluation's answers.
        alpha: chance that a release which stays within its ceilings is ever acted upon.
        burn: errors and late answers may be so many times the error budget of the objective (0.01 without one).
        invalid_share: ceiling of invalid answers.
        quality_margin: the loss, from 0 to 1, may be higher than in the evaluation by so much.
        calibration_margin: the mean forecast may differ by so much from how often it came true.
        drift_margin: a tenth of the values that the evaluation had may become so much more frequent.
        within: a release that has been live for longer is not rolled back by itself any more; a person is told.
        during_freeze: ``act``: a freeze stops no rollback. ``hold``: while one lasts a person is told instead.
    """

    name: str
    mode: WatchMode = "act"
    errors: WatchAction = "roll_back"
    invalid: WatchAction = "roll_back"
    first_byte: WatchAction = "roll_back"
    latency: WatchAction = "roll_back"
    quality: WatchAction = "roll_back"
    calibration: WatchAction = "hold"
    outputs: WatchAction = "hold"
    alpha: float = 0.01
    burn: float = 4.0
    invalid_share: float = 0.05
    quality_margin: float = 0.05
    calibration_margin: float = 0.1
    drift_margin: float = 0.15
    within: str = "28d"
    during_freeze: Literal["act", "hold"] = "act"

    def action(self, measure: str) -> WatchAction:
        """The action of one of :data:`WATCHED`."""
        found: WatchAction = getattr(self, measure)
        return found


class Watch:
    """Declares how the live release of an application is watched; see :class:`WatchSpec` for the settings.

    Args:
        application: or its name.
        settings: fields of :class:`WatchSpec`, such as ``quality="hold"`` or ``mode="tell"``.
    """

    def __init__(self, application: Application | str, **settings: Any) -> None:
        self.place = caller()
        self.name = application if isinstance(application, str) else str(getattr(application, "name", ""))
        self.settings = settings
        declared(self)

    @property
    def spec(self) -> WatchSpec:
        """The frozen value; a project checks it before."""
        return WatchSpec(self.name, **self.settings)

    def mistakes(self, applications: Mapping[str, object]) -> Iterator[str]:
        """Each mistake in a sentence."""
        label = f"watch of {self.name!r}"
        if self.name not in applications:
            yield f"{label}: there is no application {self.name!r}."
        known = [name for name in WatchSpec.__struct_fields__ if name != "name"]
        for name in self.settings.keys() - set(known):
            yield f"{label}: there is no setting {name!r}; there are {', '.join(known)}."
        choices: dict[str, tuple[str, ...]] = {"mode": WATCH_MODES, "during_freeze": ("act", "hold")}
        choices |= dict.fromkeys(WATCHED, WATCH_ACTIONS)
        for name, allowed in choices.items():
            if (value := self.settings.get(name, allowed[0])) not in allowed:
                yield f"{label}: {name} is {value!r}; it is one of {', '.join(allowed)}."
        for name in _SHARES:
            if not _number(value := self.settings.get(name, 0.01)) or not 0 < value < 1:
                yield f"{label}: {name} is {value!r}; it is a share between 0 and 1, such as 0.01."
        if not _number(value := self.settings.get("burn", 4.0)) or value < 1:
            yield f"{label}: burn is {value!r}; it is a number from 1 on."
        within = self.settings.get("within", "28d")
        try:
            if not isinstance(within, str) or not parse_duration(within):
                yield f"{label}: within is {within!r}; it is a duration such as 28d."
        except InvalidInputError as error:
            yield f"{label}: within: {error.what}"


def usual_watch(application: str) -> WatchSpec:
    """The watch of an application that declares none."""
    return WatchSpec(application)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
