"""Chaos experiments of one project: found, planned, run under its blast radius, reported.

Invariants: of several commands at once one runs experiments; it is on record in the audit log before anything is
broken, and what it did is on record in its journal whatever becomes of it. Questions are asked under a key of their
own, which ends by itself.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager, suppress
from datetime import timedelta
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, get_args

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.disk import file_lock
from antiphon.core.errors import (
    AntiphonError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    SetupError,
)
from antiphon.core.ids import new_id
from antiphon.core.suggestions import nearest
from antiphon.core.tls import gateway_url, own_client
from antiphon.governance.identity.principal import Principal
from antiphon.operations.chaos.blast_radius import ExperimentPlan, broken_proxy, damaged_model, plan_of, target
from antiphon.operations.chaos.experiment import Experiment, FaultActivity, Origin, ProbeActivity, PythonProvider
from antiphon.operations.chaos.faults import EventFault, ModelDamage, ProcessFault, ProxyFault
from antiphon.operations.chaos.guarded_fault import guarded
from antiphon.operations.chaos.guardian import FaultOrder
from antiphon.operations.chaos.injectors import continue_left_over
from antiphon.operations.chaos.journal import (
    ExperimentEnd,
    FaultEnd,
    FaultStart,
    Journal,
    RunEnd,
    RunStart,
    lasting_faults,
    read_journal,
)
from antiphon.operations.chaos.measures import QuestionMeasure
from antiphon.operations.chaos.model_injector import restore_left_over
from antiphon.operations.chaos.performance import ExperimentTools, LastingFault, perform
from antiphon.operations.chaos.probes import Probes
from antiphon.operations.chaos.question_load import QuestionLoad
from antiphon.operations.chaos.reading import SUFFIXES, load
from antiphon.operations.chaos.report import ChaosReport, report_of
from antiphon.operations.chaos.steady_state import ProbeSample
from antiphon.operations.chaos.watching import SteadyStateWatch
from antiphon.operations.processes import ProcessIdentity, statuses
from antiphon.services.chaos.event_sender import sent_events
from antiphon.services.chaos.questions import question_bodies
from antiphon.services.chaos.surroundings import ProjectMeasures, surroundings
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.governance.identity import ProjectIdentity
from antiphon.services.project.store import Store

KEY_VARIABLE = "ANTIPHON_CHAOS_KEY"
"""Environment variable with a key to ask with, instead of one that is made for the run."""

PRINCIPAL = "chaos"
"""Principal of the key that is made."""

_QUESTIONS = {str(one.__struct_config__.tag) for one in get_args(QuestionMeasure)}
_LOOK_SECONDS = 8.0


class ExperimentLine(msgspec.Struct, frozen=True):
    """One experiment as lists show it; ``obstacles`` are the reasons why it cannot be run here and now."""

    name: str
    origin: Origin
    title: str
    faults: tuple[str, ...] = ()
    seconds: float = 0.0
    obstacles: tuple[str, ...] = ()


class ProbeState(msgspec.Struct, frozen=True):
    """A probe as it is now."""

    probe: str
    value: Any
    steady: bool
    error: str


class ProjectChaos:
    """Chaos experiments of one project, whose processes run on this machine."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.paths.directory / "chaos"

    def list(self) -> Sequence[ExperimentLine]:
        """Every experiment, with what keeps it from being run; one that cannot be read says why."""
        here = surroundings(self._store)
        found = []
        for name, (path, origin) in self._files().items():
            try:
                plan = plan_of(load(path, origin, {}), here)
            except AntiphonError as error:
                found.append(ExperimentLine(name, origin, "", obstacles=(str(error),)))
                continue
            faults = tuple(one.fault for one in plan.faults)
            found.append(ExperimentLine(name, origin, plan.title, faults, plan.seconds, plan.refusals))
        return found

    def find(self, names: Sequence[str], variables: Mapping[str, str]) -> Sequence[Experiment]:
        """Experiments by their names, or paths of files; all of them without any.

        Raises:
            NotFoundError: there is none of a name. InvalidInputError: one is malformed, or a variable is of none.
        """
        known = self._files()
        found = []
        for name in names or known:
            path, origin = known.get(name, (Path(name), "project"))
            if name not in known and not (path.suffix in SUFFIXES and path.is_file()):
                raise NotFoundError(
                    f"There is no experiment {name!r}.", where="chaos",
                    next_step=nearest(name, known, "See `antiphon chaos list`."),
                )  # fmt: skip
            found.append(load(path, origin, variables))
        if unknown := sorted(set(variables) - {name for one in found for name in one.variables}):
            raise InvalidInputError(
                f"None of these experiments has a configuration {unknown[0]!r}.", where="--var",
                next_step=nearest(unknown[0], {name for one in found for name in one.variables}, "See their files."),
            )  # fmt: skip
        return found

    def plan(self, experiments: Sequence[Experiment], environment: str | None = None) -> Sequence[ExperimentPlan]:
        """Plans what each experiment would do here and now."""
        here = surroundings(self._store)
        return [plan_of(one, here, environment) for one in experiments]

    async def look(self, experiment: Experiment, *, by: Principal) -> Sequence[ProbeState]:
        """Measure the probes of an experiment without breaking anything; questions are asked for some seconds."""
        with closing(FeaturePlatform(self._store)) as platform:
            async with self._asking(experiment, platform, "look", by) as load_:
                watch = SteadyStateWatch(experiment, self._probes(platform, load_).measure, lambda sample: None)
                async with watch.watching():
                    await watch.settled(min(_LOOK_SECONDS, experiment.settle))
                last, problem = watch.last(), "" if load_ is None else load_.last_problem
        return [_state(one, last.get(one.name), problem) for one in experiment.probes()]

    async def run(
        self,
        experiments: Sequence[Experiment],
        *,
        by: Principal,
        reason: str,
        environment: str | None = None,
        passing_over: bool = False,
        tell: Callable[[str], None] = lambda line: None,
    ) -> ChaosReport:
        """Run experiments one after another, each once the state is steady again.

        Args:
            environment: the one that is meant, for experiments that are not for it by themselves.
            passing_over: leave out those that cannot be run here, instead of running none.

        Raises:
            ForbiddenError: an experiment would touch what is outside of its radius.
            ConflictError: other experiments run in this project.
        """
        with self._alone():
            await asyncio.to_thread(self._end_left_over)
            here = await asyncio.to_thread(surroundings, self._store)
            plans = [plan_of(one, here, environment) for one in experiments]
            refused = [one for one in plans if one.refusals]
            if refused and not passing_over:
                raise ForbiddenError(
                    "Nothing was begun: " + " ".join(f"{one.experiment}: {' '.join(one.refusals)}" for one in refused),
                    where="blast radius", next_step="See `antiphon chaos run NAMES --dry-run`, or docs/chaos.md.",
                )  # fmt: skip
            run = new_id("chaos")
            folder = self._folder / run
            folder.mkdir(parents=True, mode=0o700)
            journal = Journal(folder)
            names = tuple(one.name for one in experiments)
            self._audit(by, "chaos.run", run, {"items": list(names), "reason": reason, "environment": here.environment})
            scope, process = self._store.scope, str(ProcessIdentity.own())
            journal.append(RunStart(run, time.time(), by.id, reason, scope.tenant, scope.environment, process, names))
            try:
                with closing(FeaturePlatform(self._store)) as platform:
                    for experiment, plan in zip(experiments, plans, strict=True):
                        if plan.refusals:
                            tell(f"{experiment.name} is passed over: {' '.join(plan.refusals)}")
                            why = " ".join(plan.refusals)
                            journal.append(ExperimentEnd(experiment.name, time.time(), "refused", why))
                            continue
                        await self._perform(experiment, platform, journal, run, by, tell)
            finally:
                journal.append(RunEnd(time.time()))
                found = self.report(run)
                with suppress(AntiphonError):  # What was broken may be the catalog; the journal has it.
                    detail = {"outcome": "held" if found.held else "not held", "count": len(names)}
                    self._audit(by, "chaos.end", run, detail)
            return found

    def report(self, run: str | None = None) -> ChaosReport:
        """The report of a run, of the last one by default.

        Raises:
            NotFoundError: there is none.
        """
        runs = self._runs()
        chosen = run if run is not None else next(iter(runs), None)
        if chosen is None or chosen not in runs:
            raise NotFoundError(
                "No experiment was run here yet." if chosen is None else f"There is no run {chosen!r}.",
                where="chaos",
                next_step="See `antiphon chaos list --runs`, or run one: `antiphon chaos run kill-worker`.",
            )
        found = self._report(chosen)
        if found is None:
            raise NotFoundError(f"The journal of {chosen} is empty.", where=chosen, next_step="It was cut off at once.")
        return found

    def under_way(self, tenant: str) -> Sequence[str]:
        """The faults of a tenant's experiments that last, a line each."""
        found = lasting_faults(self._folder / runs[0], tenant) if (runs := self._runs()) else ()
        return [f"{one.experiment}: {one.fault}: {', '.join(one.touched)}" for one in found]

    def reports(self, limit: int = 20) -> Sequence[ChaosReport]:
        """The reports of the last runs, newest first."""
        found = (self._report(one) for one in self._runs()[:limit])
        return [one for one in found if one is not None]

    def _report(self, run: str) -> ChaosReport | None:
        events = [*read_journal(self._folder / run)]
        start = next((one for one in events if isinstance(one, RunStart)), None)
        lives = start is not None and not ProcessIdentity.own().has_ended(start.process)
        return report_of(events, runner_lives=lives)

    def _runs(self) -> Sequence[str]:
        if not self._folder.is_dir():
            return []
        return sorted((one.name for one in self._folder.iterdir() if one.name.startswith("chaos_")), reverse=True)

    def _files(self) -> dict[str, tuple[Path, Origin]]:
        """Files of experiments by name; the project's own take the place of shipped ones."""
        found: dict[str, tuple[Path, Origin]] = {}
        with as_file(files("antiphon.operations").joinpath("chaos", "experiments")) as shipped:
            for path in sorted(shipped.glob("*.json")):
                found[path.stem] = (path, "shipped")
        own = self._store.paths.root / "chaos"
        for path in sorted(own.iterdir()) if own.is_dir() else ():
            if path.suffix in SUFFIXES:
                found[path.stem] = (path, "project")
        return found

    async def _perform(
        self, experiment: Experiment, platform: FeaturePlatform, journal: Journal, run: str, by: Principal,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        async with self._asking(experiment, platform, run, by) as questions:
            tools = ExperimentTools(
                measure=self._probes(platform, questions).measure,
                begin=partial(self._begin, experiment, journal, run),
                record=journal.append,
                tell=tell,
                counts=lambda since: None if questions is None else questions.counts(since),
                problem=lambda: "" if questions is None else questions.last_problem,
            )
            await perform(experiment, tools)

    def _begin(
        self, experiment: Experiment, journal: Journal, run: str, activity: FaultActivity
    ) -> AbstractAsyncContextManager[LastingFault]:
        fault, paths = activity.fault, self._store.paths
        if isinstance(fault, EventFault):
            return sent_events(
                self._store, fault, experiment=experiment.name, name=activity.name, journal=journal, mark=run[-8:]
            )
        # Looked up anew: since the plan was made, a process may have been started again under another pid.
        running = [one.name for one in statuses(paths.run) if one.alive]
        touched = target(fault.process, running) if isinstance(fault, ProcessFault) else ""
        if isinstance(fault, ModelDamage):
            version = self._store.models.get(self._store.scope, damaged_model(fault, surroundings(self._store)))
            fault = msgspec.structs.replace(fault, model=version.id)
            kept = version.weights if fault.file == "weights" else version.adapter
            touched = str(paths.models.resolve() / kept.path)
        if isinstance(fault, ProxyFault):
            fault = msgspec.structs.replace(fault, proxy=broken_proxy(fault, surroundings(self._store)))
        if touched is None:
            raise NotFoundError(f"{activity.name}: the process does not run.", where=activity.name)
        embedded = self._store.settings.catalog.url is None
        return guarded(
            FaultOrder(
                experiment=experiment.name,
                name=activity.name,
                fault=fault,
                target=touched,
                folder=str(journal.file.parent),
                run=str(paths.run),
                project=str(paths.directory),
                catalog=str(paths.catalog) if embedded else None,
            )
        )

    def _probes(self, platform: FeaturePlatform, asking: QuestionLoad | None) -> Probes:
        settings, root = self._store.settings, self._store.paths.root
        measures = ProjectMeasures(self._store, platform)
        return Probes(root, gateway_url(settings), own_client(settings, root), asking, measures.measure)

    @asynccontextmanager
    async def _asking(
        self, experiment: Experiment, platform: FeaturePlatform, run: str, by: Principal
    ) -> AsyncIterator[QuestionLoad | None]:
        """Ask questions while the block lasts, where a probe needs them."""
        if not any(_asks(one) for one in experiment.probes()):
            yield None
            return
        spec, settings = experiment.questions, self._store.settings
        lasts = experiment.settle + experiment.max_duration + experiment.recovery + 60
        with self._key(by, timedelta(seconds=lasts)) as key:
            bodies = await asyncio.to_thread(question_bodies, self._store, platform, spec)
            load_ = QuestionLoad(
                gateway_url(settings), key, bodies, rate=spec.rate,
                timeout=parse_duration(spec.timeout).total_seconds(), mark=run[-8:], tls=own_client(settings,
                self._store.paths.root),
            )  # fmt: skip
            asking = asyncio.create_task(load_.ask())
            try:
                yield load_
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

    @contextmanager
    def _key(self, by: Principal, lasts: timedelta) -> Iterator[str]:
        """A key to ask with, which ends with the block, and by itself when this process does not come to that."""
        given = os.environ.get(KEY_VARIABLE)
        if given:
            yield given
            return
        if self._store.scope.environment != "dev":
            raise SetupError(
                "Questions need a key here, and outside of dev keys are approved.", where=KEY_VARIABLE,
                next_step=f"Make one with the role service, and put it into {KEY_VARIABLE}.",
            )  # fmt: skip
        identity, tenant = ProjectIdentity(self._store), self._store.scope.tenant
        until = self._store.database.clock.now() + lasts
        text, record = identity.create(tenant, PRINCIPAL, "service", until, by=by)
        try:
            yield text
        finally:
            with suppress(AntiphonError):
                identity.revoke(tenant, record.id, by=by.id)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file_lock(self._folder / "lock", wait=False) as held:
            if held is None:
                raise ConflictError(
                    "Other experiments run in this project.", where=str(self._folder),
                    next_step="Wait for their end: `antiphon chaos list --runs`.",
                )  # fmt: skip
            yield

    def _end_left_over(self) -> None:
        """Undo what the guardians of the last run left, because they were killed themselves: processes go on, and files
        are put back."""
        last = next(iter(self._runs()), None)
        events = [] if last is None else [*read_journal(self._folder / last)]
        over = {(one.experiment, one.name) for one in events if isinstance(one, FaultEnd)}
        left = [one for one in events if isinstance(one, FaultStart) and (one.experiment, one.name) not in over]
        restore_left_over(self._store.paths.models)
        continue_left_over(self._store.paths.run, [word.partition(" ")[0] for one in left for word in one.touched])

    def _audit(self, by: Principal, action: str, run: str, detail: Mapping[str, Any]) -> None:
        self._store.audit.append(self._store.scope, by.id, action, f"chaos/{run}", detail)


def _state(probe: ProbeActivity, sample: ProbeSample | None, problem: str) -> ProbeState:
    if sample is None:
        return ProbeState(probe.name, None, False, "it was not measured in time")
    why = problem if not sample.steady and _asks(probe) else ""
    return ProbeState(probe.name, sample.value, sample.steady, sample.error or why)


def _asks(probe: ProbeActivity) -> bool:
    """Tells whether a probe measures what comes of questions."""
    return isinstance(probe.provider, PythonProvider) and probe.provider.func in _QUESTIONS
