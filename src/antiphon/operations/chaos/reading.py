"""Reads experiments from files in Chaos Toolkit's format (JSON, or YAML with the extra ``chaos``).

Only what Antiphon acts on is accepted: a part of the format that would be passed over (controls, secrets, actions of
other modules) is refused by name. Reference: https://chaostoolkit.org/reference/api/experiment/, version 1.0.0.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, get_args

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.settings_sections import Duration
from antiphon.core.suggestions import nearest
from antiphon.operations.chaos import tolerance as tolerances
from antiphon.operations.chaos.experiment import (
    BlastRadius,
    DegradedMode,
    Experiment,
    FaultActivity,
    Hypothesis,
    Origin,
    ProbeActivity,
    Provider,
    PythonProvider,
    QuestionLoadSpec,
    StopLimit,
    Strategy,
    seconds_of_pause,
)
from antiphon.operations.chaos.faults import MODULE, Fault
from antiphon.operations.chaos.measures import Measure

SUFFIXES = (".json", ".yaml", ".yml")
EXTENSION = "antiphon"
LONGEST_FILE = 1_000_000
"""Bytes of a file."""

_VARIABLE = re.compile(r"\$\{(\w+)\}")


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    pass


class _Activity(_Struct, frozen=True):
    name: str
    type: str
    provider: Provider
    tolerance: Any = None
    pauses: dict[str, float | str] = {}
    background: bool = False


class _HypothesisText(_Struct, frozen=True):
    title: str
    probes: tuple[_Activity, ...] = ()
    longest: Duration = "60s"


class _HypothesisRuntime(_Struct, frozen=True):
    strategy: Strategy = "default"
    frequency: float = 1.0


class _RollbackRuntime(_Struct, frozen=True):
    strategy: str = "default"


class _Runtime(_Struct, frozen=True):
    hypothesis: _HypothesisRuntime = _HypothesisRuntime()
    rollbacks: _RollbackRuntime = _RollbackRuntime()


class _Extension(_Struct, frozen=True):
    name: str
    blast_radius: BlastRadius = BlastRadius()
    stop_when: tuple[StopLimit, ...] = ()
    degraded_mode: _HypothesisText | None = None
    questions: QuestionLoadSpec = QuestionLoadSpec()
    settle: Duration = "20s"
    recovery: Duration = "60s"
    max_duration: Duration = "5m"


class _Document(_Struct, frozen=True):
    title: str
    description: str
    method: tuple[_Activity, ...]
    version: str = "1.0.0"
    tags: tuple[str, ...] = ()
    configuration: dict[str, Any] = {}
    steady_state_hypothesis: _HypothesisText | None = None
    rollbacks: tuple[_Activity, ...] = ()
    runtime: _Runtime = _Runtime()
    extensions: tuple[dict[str, Any], ...] = ()
    contributions: dict[str, Any] = {}


def load(path: Path, origin: Origin, variables: Mapping[str, str]) -> Experiment:
    """Read an experiment from a file.

    Args:
        variables: values that take the place of those of its configuration.

    Raises:
        InvalidInputError: it is malformed, or says what is not acted on. SetupError: YAML cannot be read here.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"The experiment cannot be read: {error.strerror}.", where=str(path)) from None
    if len(content) > LONGEST_FILE:
        raise InvalidInputError(f"The experiment has more than {LONGEST_FILE} bytes.", where=str(path))
    return read(path.stem, _parsed(content, path), origin, variables, where=str(path))


def read(
    name: str, document: Any, origin: Origin, variables: Mapping[str, str] | None = None, *, where: str
) -> Experiment:
    """The experiment that a document says; raises ``InvalidInputError`` as :func:`load`."""
    if not isinstance(document, dict):
        raise InvalidInputError("An experiment is an object.", where=where)
    for part in ("controls", "secrets"):
        if document.get(part):
            _refuse(where, f"`{part}` would be passed over.", "Take it out; secrets come from the environment.")
        document = {key: value for key, value in document.items() if key != part}
    configured = _configuration(document.get("configuration", {}), variables or {}, where)
    try:
        found = msgspec.convert(_substituted(document, configured, where), _Document)
        extension = _extension(found)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"{error}.", where=where, next_step="See docs/chaos.md.") from None
    hypothesis = found.steady_state_hypothesis or _HypothesisText("Nothing is measured")
    if found.runtime.rollbacks.strategy not in ("default", "always"):
        _refuse(where, "Rollbacks are always performed.", "Leave their strategy out: faults end by themselves.")
    degraded = extension.degraded_mode
    experiment = Experiment(
        name=name,
        origin=origin,
        title=found.title,
        description=found.description,
        tags=found.tags,
        hypothesis=Hypothesis(hypothesis.title, tuple(_steady(one, where) for one in hypothesis.probes)),
        method=tuple(_activity(one, where) for one in found.method),
        rollbacks=tuple(_activity(one, where) for one in found.rollbacks),
        strategy=found.runtime.hypothesis.strategy,
        frequency=max(0.1, found.runtime.hypothesis.frequency),
        radius=extension.blast_radius,
        stop_when=extension.stop_when,
        degraded=None
        if degraded is None
        else DegradedMode(degraded.title, tuple(_steady(one, where) for one in degraded.probes), degraded.longest),
        questions=extension.questions,
        settle=parse_duration(extension.settle).total_seconds(),
        recovery=parse_duration(extension.recovery).total_seconds(),
        max_duration=parse_duration(extension.max_duration).total_seconds(),
        variables=tuple(configured),
    )
    _require_sound(experiment, where)
    return experiment


def _parsed(content: bytes, path: Path) -> Any:
    if path.suffix == ".json":
        try:
            return msgspec.json.decode(content)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidInputError(f"The experiment is not JSON: {error}.", where=str(path)) from None
    try:
        import yaml
    except ImportError:
        raise SetupError(
            "YAML cannot be read here.", where=str(path),
            next_step="Install the extra: pip install 'antiphon[chaos]', or write the experiment as JSON.",
        ) from None  # fmt: skip
    try:
        return yaml.safe_load(content)
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidInputError(
            f"The experiment is not YAML: {' '.join(str(error).split())}.", where=str(path)
        ) from None


def _configuration(written: Any, variables: Mapping[str, str], where: str) -> dict[str, Any]:
    """Values by name: static ones, those of the environment, and those given with the command."""
    if not isinstance(written, Mapping):
        _refuse(where, "`configuration` is an object.", "Write names and values.")
    found: dict[str, Any] = {}
    for name, value in written.items():
        if isinstance(value, Mapping) and value.get("type") == "env":
            read_value = os.environ.get(str(value.get("key")), value.get("default"))
            if read_value is None:
                _refuse(where, f"The environment has no {value.get('key')}.", f"Set it, or give --var {name}=VALUE.")
            found[name] = _typed(read_value) if isinstance(read_value, str) else read_value
        elif isinstance(value, str | int | float | bool):
            found[name] = value
        else:
            _refuse(where, f"The configuration {name} is no plain value.", "Write a number, a text, or type env.")
    for name, text in variables.items():
        if name in found:
            found[name] = _typed(text)
    return found


def _typed(text: str) -> Any:
    try:
        value = msgspec.json.decode(text.encode())
    except msgspec.DecodeError:
        return text
    return value if isinstance(value, int | float | bool) else text


def _substituted(value: Any, configured: Mapping[str, Any], where: str) -> Any:
    """A document with the configuration's values in the place of ``${NAME}``."""
    if isinstance(value, dict):
        return {key: _substituted(one, configured, where) for key, one in value.items()}
    if isinstance(value, list):
        return [_substituted(one, configured, where) for one in value]
    if not isinstance(value, str):
        return value
    for name in _VARIABLE.findall(value):
        if name not in configured:
            _refuse(where, f"There is no configuration {name!r}.", nearest(name, configured, "Declare it."))
    whole = _VARIABLE.fullmatch(value)
    return configured[whole[1]] if whole else _VARIABLE.sub(lambda one: str(configured[one[1]]), value)


def _extension(found: _Document) -> _Extension:
    own = next((one for one in found.extensions if one.get("name") == EXTENSION), {"name": EXTENSION})
    return msgspec.convert(own, _Extension)


def _steady(activity: _Activity, where: str) -> ProbeActivity:
    probe = _activity(activity, where)
    if not isinstance(probe, ProbeActivity) or probe.tolerance is None:
        _refuse(where, f"{activity.name!r} is no probe with a tolerance.", "A steady state is made of those.")
    return probe


def _activity(activity: _Activity, where: str) -> FaultActivity | ProbeActivity:
    before, after = (seconds_of_pause(activity.pauses.get(name, 0.0)) for name in ("before", "after"))
    provider = activity.provider
    if activity.type == "probe":
        if isinstance(provider, PythonProvider):
            _converted(provider, Measure, activity.name, where)
        for wrong in tolerances.mistakes(activity.tolerance) if activity.tolerance is not None else ():
            _refuse(where, f"The tolerance of {activity.name!r}: {wrong}.", "See docs/chaos.md.")
        return ProbeActivity(activity.name, provider, activity.tolerance, before, after)
    if activity.type != "action":
        _refuse(where, f"{activity.name!r} is neither an action nor a probe.", "Write one of both as its type.")
    if not isinstance(provider, PythonProvider):
        _refuse(
            where, f"The action {activity.name!r} is no fault of ours.",
            "A program or request could not be ended with the experiment: use the faults of docs/chaos.md.",
        )  # fmt: skip
    return FaultActivity(
        activity.name, _converted(provider, Fault, activity.name, where), before, after, activity.background
    )


def _converted(provider: PythonProvider, kind: Any, name: str, where: str) -> Any:
    if provider.module != MODULE:
        _refuse(where, f"{name!r} calls {provider.module!r}.", f"Only functions of {MODULE!r} are called.")
    known = {str(one.__struct_config__.tag) for one in get_args(kind)}
    if provider.func not in known:
        _refuse(
            where,
            f"{MODULE!r} has no function {provider.func!r}.",
            nearest(provider.func, known, ", ".join(sorted(known))),
        )
    try:
        return msgspec.convert({"func": provider.func, **provider.arguments}, kind)
    except msgspec.ValidationError as error:
        _refuse(where, f"{name!r}: {error}.", "See docs/chaos.md for its arguments.")


def _require_sound(experiment: Experiment, where: str) -> None:
    """Refuse what contradicts itself; raises ``InvalidInputError``."""
    for wrong in _contradictions(experiment):
        _refuse(where, wrong, "See docs/chaos.md.")


def _contradictions(experiment: Experiment) -> Iterator[str]:
    names = [one.name for one in experiment.probes()]
    if len(set(names)) < len(names):
        yield "Two probes have one name."
    for limit in experiment.stop_when:
        if limit.probe not in names:
            yield f"`stop-when` names a probe {limit.probe!r} that there is not."
        if limit.tolerance is not None:
            yield from (f"The tolerance of {limit.probe!r}: {one}." for one in tolerances.mistakes(limit.tolerance))
    if experiment.stop_when and not experiment.looks_during:
        yield "`stop-when` needs a steady state that is looked at during the method."


def _refuse(where: str, what: str, next_step: str) -> NoReturn:
    raise InvalidInputError(what, where=where, next_step=next_step)
