"""Refresh: the durable workflow materialize → gate → publish, for one or several views at once.

Streams that another system writes are read first, so that a snapshot has what was written before it was ordered.

A view whose source cannot be read, or whose snapshot its gates block, keeps its previous snapshot, with a verdict that
says why; the other views go on. A snapshot under an embargo is staged instead of published.

Every step is idempotent: a snapshot's id and files follow from its content, and publishing what is current
changes nothing. So a run that was killed continues where it stopped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any

import msgspec

from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.catalog.features.verdicts import GateFinding, StagedSnapshot, Verdict, verdict_id
from antiphon.core.clock import utc
from antiphon.core.errors import AntiphonError, CorruptionError, InvalidInputError, SetupError, UnavailableError
from antiphon.definitions.source import SourceSpec
from antiphon.durable.context import RunContext
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.embedding.vectors import Embedders
from antiphon.features.monitoring.quality.custom_rules import Functions
from antiphon.features.monitoring.quality.gate import EARLIER, Outcome, gate
from antiphon.features.monitoring.quality.statistics import KeyedHash
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.ports import LogReader
from antiphon.features.publication.publish import Publisher

WORKFLOW = "refresh"
"""The workflow's name in the registry."""

MATERIALIZE = "materialize "
"""The beginning of the names of steps whose result is a manifest that nothing may name yet."""

_log = logging.getLogger("antiphon.features")


class RefreshArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of a refresh.

    Attributes:
        views: ``view@definition_version`` each.
        as_of: the moment; the run's start by default.
        reason: kept with the publication.
        principal: the requesting one.
        whole: read all of each source, and take nothing over from the previous snapshot.
    """

    views: tuple[str, ...]
    as_of: datetime | None = None
    reason: str = "refresh"
    principal: str = "worker"
    whole: bool = False


class RefreshResult(msgspec.Struct, frozen=True):
    """Result of a refresh.

    Attributes:
        publication: the current one afterwards; ``None`` before the first.
        snapshots: of the views that passed, by view.
        blocked: reasons by view that a gate stopped; it keeps its previous snapshot.
        warned: findings by view that passed all the same.
        staged: end of the embargo by staged view.
        held: views on hold; their snapshot is recorded and not published.
    """

    publication: int | None
    snapshots: dict[str, str]
    blocked: dict[str, tuple[str, ...]]
    warned: dict[str, tuple[str, ...]] = {}
    staged: dict[str, datetime] = {}
    held: tuple[str, ...] = ()


class Refresher:
    """The refresh workflow of one scope."""

    def __init__(
        self,
        catalog: FeatureCatalog,
        *,
        publisher: Publisher,
        log: LogReader,
        functions: Functions | None = None,
        embedders: Embedders | None = None,
        keyed_hash: KeyedHash | None = None,
        catch_up: Callable[[SourceSpec, Callable[[int], None]], int] | None = None,
    ) -> None:
        """
        Args:
            catch_up: appends what another system wrote to a followed stream, and is given the events read so far.
        """
        self._catalog = catalog
        self._scope = catalog.scope
        self._publisher = publisher
        self._log = log
        self._functions = functions
        self._embedders = embedders
        self._keyed_hash = keyed_hash
        self._catch_up = catch_up

    async def refresh(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Run the workflow: ``arguments`` is a :class:`RefreshArguments`, the result a :class:`RefreshResult`, as JSON.

        Raises:
            InvalidInputError: the arguments or a source do not fit.
            NotFoundError: a definition version is unknown.
        """
        try:
            request = msgspec.convert(arguments, RefreshArguments)
        except msgspec.ValidationError as error:
            raise InvalidInputError(f"{error}.", where="refresh arguments") from None
        if not request.views:
            raise InvalidInputError("No view is named.", where="refresh arguments")
        if run.scope != self._scope:
            raise InvalidInputError(f"The run belongs to {run.scope}, not to {self._scope}.", where="refresh arguments")
        followed = self._followed(request)
        unread: dict[str, dict[str, Any]] = {}
        for name, source in followed.items():

            def reading(events: int, name: str = name) -> None:
                run.progress(0, 1, f"read {name}: {events} events")

            problem = await run.step(f"read {name}", self._read_followed, source, reading, run, len(request.views) > 1)
            while problem is not None and _of_before(problem, run):
                problem = await run.step(
                    f"read {name}", self._read_followed, source, reading, run, len(request.views) > 1
                )
            if problem is not None:
                unread |= {key: problem for key, stream in self._streams(request).items() if stream == name}
        start = await run.step("pin", self._pin, request)
        total = len(request.views) + 1
        passed: list[dict[str, Any]] = []
        blocked: dict[str, tuple[str, ...]] = {}
        warned: dict[str, tuple[str, ...]] = {}
        unreadable: list[dict[str, str]] = []
        for done, key in enumerate(request.views):
            run.progress(done, total, f"materialize {key}")
            made, judged = await self._judged(run, request, start, key, unread.get(key))
            if "unreadable" in made:
                unreadable.append(made["unreadable"])
            elif judged["outcome"] != "blocked":
                passed.append(made)
            if judged["outcome"] == "blocked":
                blocked[key] = tuple(one["reason"] for one in judged["findings"] if one["action"] == "block")
            elif judged["findings"]:
                warned[key] = tuple(one["reason"] for one in judged["findings"])
        if len(unreadable) == len(request.views):
            raise InvalidInputError(
                unreadable[0]["what"], where=unreadable[0]["where"], next_step=unreadable[0]["next_step"]
            )
        run.progress(total - 1, total, "publish")
        published = await run.step("publish", self._publish, request, passed)
        run.progress(total, total, "published" if passed else "nothing published: every view is blocked")
        snapshots = {f"{made['view']}@{made['definition_version']}": made["id"] for made in passed}
        result = RefreshResult(
            published["publication"], snapshots, blocked, warned, published["staged"], published["held"]
        )
        builtins: dict[str, Any] = msgspec.to_builtins(result)
        return builtins

    async def _judged(
        self, run: RunContext, request: RefreshArguments, start: dict[str, Any], key: str, unread: dict[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A view's snapshot, or why there is none, and the verdict on it. What could not be read before the run was
        retried is read again, and has a verdict of its own."""
        place, views = request.views.index(key), len(request.views) + 1

        def embedding(texts: int, of: int) -> None:
            run.progress(place, views, f"materialize {key}: {texts} of {of} texts embedded")

        async def read() -> dict[str, Any]:
            stop = threading.Event()
            made: dict[str, Any] = await run.step(
                f"{MATERIALIZE}{key}", self._materialize, request, start, key, run, embedding, stop, stop=stop
            )
            return made

        async def gated(verdict: str) -> dict[str, Any]:
            judged: dict[str, Any] = await run.step(f"gate {key}", self._gate, request, key, made, run, verdict)
            return judged

        made = unread or await read()
        while _of_before(made, run):
            made = await read()
        judged, tries = await gated(run.id), 0
        while _of_before(judged, run):
            tries += 1
            judged = await gated(f"{run.id}.{tries}")
        return made, judged

    def _followed(self, request: RefreshArguments) -> dict[str, SourceSpec]:
        """The streams of the views that another system writes, by name."""
        if self._catch_up is None:
            return {}
        sources = (self._catalog.definition(key).source for key in request.views)
        return {source.name: source for source in sources if source.follow is not None}

    def _streams(self, request: RefreshArguments) -> dict[str, str]:
        return {key: self._catalog.definition(key).source.name for key in request.views}

    def _read_followed(
        self, source: SourceSpec, progress: Callable[[int], None], run: RunContext, others: bool
    ) -> dict[str, Any] | None:
        """Append what is written by now; the problem of its views where that was never possible.

        Args:
            others: whether views are refreshed that may not depend on it.

        Raises:
            UnavailableError: the place is away, and the run may wait for it.
        """
        assert self._catch_up is not None
        try:
            self._catch_up(source, progress)
        except AntiphonError as error:
            if isinstance(error, UnavailableError) and not others:
                raise
            return _unreadable(error, run)
        return None

    def _pin(self, request: RefreshArguments) -> dict[str, Any]:
        """Fix the moment and the log offsets, so that a resumed run continues the same refresh."""
        as_of = utc(request.as_of) if request.as_of is not None else self._catalog.clock.now()
        return {"as_of": as_of.isoformat(), "through": self.log_ends(request.views)}

    def log_ends(self, views: Collection[str]) -> dict[str, int]:
        """The last offset of each stream that one of these views, ``view@definition_version``, reads."""
        streams = {spec.source.name for spec in map(self._catalog.definition, views) if spec.source.kind == "stream"}
        return {stream: self._log.end(self._scope, stream) for stream in sorted(streams)}

    def materialized(
        self, request: Materialization, progress: Callable[[int, int], None], stop: threading.Event
    ) -> SnapshotManifest:
        """Materialize a view with what this project has for it; raises as :func:`materialize`."""
        return materialize(
            request,
            lake=self._catalog.lake,
            log=self._log,
            clock=self._catalog.clock,
            functions=self._functions,
            embedders=self._embedders,
            keyed_hash=self._keyed_hash,
            progress=progress,
            stop=stop,
        )

    def _materialize(
        self,
        request: RefreshArguments,
        start: dict[str, Any],
        key: str,
        run: RunContext,
        progress: Callable[[int, int], None],
        stop: threading.Event,
    ) -> dict[str, Any]:
        spec = self._catalog.definition(key)
        try:
            manifest = self.materialized(
                Materialization(
                    scope=self._scope,
                    spec=spec,
                    as_of=datetime.fromisoformat(start["as_of"]),
                    through=start["through"].get(spec.source.name),
                    run=run.id,
                    previous=self._catalog.published(key),
                    whole=request.whole,
                    principal=request.principal,
                    reason=request.reason,
                ),
                progress,
                stop,
            )
        except (InvalidInputError, SetupError, CorruptionError) as error:
            # Transient problems (no memory, a file that changed meanwhile) fail the run instead, which is retried.
            return _unreadable(error, run)
        made: dict[str, Any] = msgspec.to_builtins(manifest)
        return made

    def _gate(
        self, request: RefreshArguments, key: str, made: dict[str, Any], run: RunContext, verdict: str
    ) -> dict[str, Any]:
        spec, previous = self._catalog.definition(key), self._catalog.published(key)
        manifest: SnapshotManifest | None = None
        if "unreadable" in made:
            said = made["unreadable"]
            findings: tuple[GateFinding, ...] = (GateFinding("source", "block", f"{said['where']}: {said['what']}"),)
            outcome: Outcome = "blocked"
        else:
            manifest = msgspec.convert(made, SnapshotManifest)
            earlier = self._catalog.snapshots.list(self._scope, spec.name, spec.definition_version, limit=EARLIER + 1)
            judged = gate(spec, manifest, previous, earlier)
            findings, outcome = judged.findings, judged.outcome
        self._catalog.verdicts.add(
            Verdict(
                id=verdict_id(verdict, key),
                scope=self._scope,
                view=spec.name,
                definition_version=spec.definition_version,
                outcome=outcome,
                findings=findings,
                snapshot=manifest.id if manifest is not None else None,
                manifest=manifest,
                run=run.id,
                principal=request.principal,
                reason=request.reason,
                created_at=self._catalog.clock.now(),
                kept=previous.id if previous is not None and outcome == "blocked" else None,
            )
        )
        claim = {"claim": run.claim} if "unreadable" in made else {}
        return {"outcome": outcome, "findings": msgspec.to_builtins(findings), **claim}

    def _publish(self, request: RefreshArguments, passed: list[dict[str, Any]]) -> dict[str, Any]:
        made = [msgspec.convert(one, SnapshotManifest) for one in passed]
        snapshots = [
            (one, self._catalog.definitions.get(self._scope, one.view, one.definition_version)) for one in made
        ]
        staged: dict[str, datetime] = {}
        for manifest, spec in snapshots:
            if spec.embargo is None:
                continue
            manifest = self._publisher.prepare(manifest, spec)
            staged[spec.key] = manifest.created_at + timedelta(microseconds=spec.embargo)
            self._catalog.staged.add(
                StagedSnapshot(
                    self._scope, spec.name, spec.definition_version, manifest.id, staged[spec.key],
                    request.reason, request.principal,
                )
            )  # fmt: skip
        now = [(manifest, spec) for manifest, spec in snapshots if spec.key not in staged]
        publication = self._publisher.publish(now, reason=request.reason, principal=request.principal)
        found: dict[str, Any] = msgspec.to_builtins(
            {
                "publication": None if publication is None else publication.number,
                "staged": staged,
                "held": tuple(spec.key for _, spec in now if self._publisher.held(spec.name)),
            }
        )
        return found

    def release_staged(self, only: Collection[str] | None = None) -> int:
        """Publish staged snapshots whose embargo ended, and return their number. Idempotent, also when run twice at
        once.

        Args:
            only: these views, ``view@definition_version`` each, and raise a problem with one; by default all views, and
                a problem is logged.
        """
        due, released = self._catalog.staged.list(self._scope, self._catalog.clock.now()), 0
        for one in due:
            if only is not None and f"{one.view}@{one.definition_version}" not in only:
                continue
            if self._publisher.held(one.view):
                continue
            try:
                manifest = self._catalog.snapshots.get(self._scope, one.snapshot)
                spec = self._catalog.definitions.get(self._scope, one.view, one.definition_version)
                self._publisher.publish(
                    [(manifest, spec)], reason=f"{one.reason}, after its embargo", principal=one.principal
                )
            except AntiphonError as error:
                if only is not None:
                    raise
                _log.error("%s of %s is not published after its embargo, and is tried again: %s",
                           one.snapshot, one.view, error)  # fmt: skip
                continue
            self._catalog.staged.remove(self._scope, one.snapshot)
            released += 1
        return released


def _unreadable(error: AntiphonError, run: RunContext) -> dict[str, Any]:
    where, next_step = error.where or "source", error.next_step or ""
    return {"unreadable": {"what": error.what, "where": where, "next_step": next_step}, "claim": run.claim}


def _of_before(made: dict[str, Any], run: RunContext) -> bool:
    """Tells whether a source could not be read in an attempt before this one: it may be whole by now."""
    return bool(made.get("claim", run.claim) != run.claim)


def made_by(step: str, result: Any) -> tuple[str, ...]:
    """Lake files that a recorded step of the workflow has written; no manifest may name them yet."""
    if not step.startswith(MATERIALIZE) or not isinstance(result, dict) or "unreadable" in result:
        return ()
    return msgspec.convert(result, SnapshotManifest).paths
