"""An experiment as a value: the parts of Chaos Toolkit's format, and the bounds that Antiphon adds to them.

What the format has no place for stands in its ``extensions``, under the name ``antiphon``: the blast radius, limits at
which an experiment is stopped, the degraded mode that is declared, and times.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.settings_sections import Duration
from antiphon.operations.chaos.faults import Fault, Part, seconds_of

Strategy = Literal["default", "before-method-only", "after-method-only", "during-method-only", "continuously"]
"""Times at which the steady state is looked at: ``default`` is before and after the method, ``continuously`` also
during it."""

Origin = Literal["shipped", "project"]


class PythonProvider(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="python"):
    """A function of ours, by its name; no other module is called."""

    module: str
    func: str
    arguments: dict[str, Any] = {}


class HttpProvider(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="http"):
    """A request; its value has ``status``, ``headers`` and ``body``. ``timeout`` is in seconds."""

    url: str
    method: Literal["GET", "POST", "HEAD", "PUT", "DELETE"] = "GET"
    headers: dict[str, str] = {}
    arguments: dict[str, Any] | None = None
    timeout: float = 3.0


class ProcessProvider(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="process"):
    """A program; its value has ``status`` (its exit code), ``stdout`` and ``stderr``. ``timeout`` is in seconds."""

    path: str
    arguments: str | list[str] | dict[str, Any] = ""
    timeout: float = 5.0


Provider = PythonProvider | HttpProvider | ProcessProvider


class ProbeActivity(msgspec.Struct, frozen=True):
    """A measurement; ``tolerance`` is ``None`` where its value is only recorded."""

    name: str
    provider: Provider
    tolerance: Any = None
    before: float = 0.0
    after: float = 0.0


class FaultActivity(msgspec.Struct, frozen=True):
    """A fault of the method.

    Attributes:
        before, after: pauses in seconds.
        background: the next activity begins while the fault lasts.
    """

    name: str
    fault: Fault
    before: float = 0.0
    after: float = 0.0
    background: bool = False


class Hypothesis(msgspec.Struct, frozen=True):
    """Steady state: every probe is within its tolerance."""

    title: str
    probes: tuple[ProbeActivity, ...] = ()


class DegradedMode(msgspec.Struct, frozen=True):
    """State that is declared to be good enough while a fault lasts, and for how long in a row at most."""

    title: str
    probes: tuple[ProbeActivity, ...]
    longest: Duration = "60s"


class StopLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"lasting": "for"}):
    """Limit at which an experiment is stopped: a probe outside of this tolerance, its own by default, for so long in a
    row."""

    probe: str
    tolerance: Any = None
    lasting: Duration = "10s"


class BlastRadius(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """All that an experiment may touch; what it does not name is refused.

    Attributes:
        processes: by name or kind; ``at_once``: how many of them at one time.
        proxies, streams: by name; ``models``: versions of trained models.
        machine: shared parts of the machine.
        applications, tenants: those that may be touched; ``None``: every one. A fault of a process touches all that it
            serves.
        environments: where it may run without being told so.
        rollouts: also while a rollout is under way, to which a fault would be evidence.
        beyond_lease: also a process that stands still for longer than its leases last.
    """

    processes: tuple[str, ...] = ()
    at_once: int = 1
    proxies: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    machine: tuple[Part, ...] = ()
    applications: tuple[str, ...] | None = None
    tenants: tuple[str, ...] | None = None
    environments: tuple[str, ...] = ("dev",)
    rollouts: bool = False
    beyond_lease: bool = False


class QuestionLoadSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Questions that are asked meanwhile, at a rate that answers do not change.

    Attributes:
        rate: per second.
        application, entity, question: ``None``: those that were asked lately, or made-up ones about entities that there
            are.
        timeout: after which one counts as failed.
    """

    rate: float = 2.0
    application: str | None = None
    entity: dict[str, str] = {}
    question: str = "Is everything well?"
    timeout: Duration = "10s"


class Experiment(msgspec.Struct, frozen=True):
    """One chaos experiment.

    Attributes:
        name: of its file.
        frequency: seconds between two measurements of a probe.
        settle: time within which the steady state must be there before anything is broken.
        recovery: time within which it must be back once the faults are over.
        max_duration: of the method; then it is stopped.
        variables: names of its configuration, whose values a command may replace.
    """

    name: str
    origin: Origin
    title: str
    description: str
    hypothesis: Hypothesis
    method: tuple[FaultActivity | ProbeActivity, ...]
    rollbacks: tuple[FaultActivity | ProbeActivity, ...] = ()
    tags: tuple[str, ...] = ()
    strategy: Strategy = "default"
    frequency: float = 1.0
    radius: BlastRadius = BlastRadius()
    stop_when: tuple[StopLimit, ...] = ()
    degraded: DegradedMode | None = None
    questions: QuestionLoadSpec = QuestionLoadSpec()
    settle: float = 20.0
    recovery: float = 60.0
    max_duration: float = 300.0
    variables: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[FaultActivity, ...]:
        """The faults of its method, and of its rollbacks."""
        return tuple(one for one in (*self.method, *self.rollbacks) if isinstance(one, FaultActivity))

    @property
    def looks_before(self) -> bool:
        return self.strategy in ("default", "before-method-only", "continuously")

    @property
    def looks_during(self) -> bool:
        return self.strategy in ("during-method-only", "continuously")

    @property
    def looks_after(self) -> bool:
        return self.strategy in ("default", "after-method-only", "continuously")

    def probes(self) -> Iterator[ProbeActivity]:
        """Every probe of the steady state and of the degraded mode."""
        yield from self.hypothesis.probes
        if self.degraded is not None:
            yield from self.degraded.probes

    @property
    def seconds(self) -> float:
        """The longest time that its method takes."""
        total = longest_background = 0.0
        for one in self.method:
            total += one.before
            if isinstance(one, FaultActivity):
                lasts = seconds_of(one.fault)
                if one.background:
                    longest_background = max(longest_background, total + lasts)
                else:
                    total += lasts
            total += one.after
        return min(self.max_duration, max(total, longest_background))


def seconds_of_pause(pause: float | str) -> float:
    """Seconds of a pause, which the format writes as a number, and we as a duration too."""
    return float(pause) if not isinstance(pause, str) else parse_duration(pause).total_seconds()
