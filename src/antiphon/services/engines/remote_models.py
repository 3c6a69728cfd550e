"""Versions of remote models: recorded as they are seen, shown, and held against what a release was validated with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec

from antiphon.catalog.learning.evaluations import Evaluation
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.remote_models import RemoteModels, RemoteModelVersion
from antiphon.core.clock import parse_duration
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.degradation import MAIN, target_of
from antiphon.engine.backends.remote.model_watch import PinnedModel
from antiphon.engine.backends.remote.observation import ModelObservation, difference, joined
from antiphon.engine.backends.remote.protocol import version_of
from antiphon.learning.evaluation.validation import RemoteVersions
from antiphon.services.project.store import Store

_log = logging.getLogger("antiphon.engine")

OBSERVER = "engine"
"""The principal in whose name changes of models are in the audit log: the process that saw them."""

_observation = msgspec.json.Decoder(ModelObservation)


class RemoteModelRecord:
    """Compares what a server's models show with what they showed before, and keeps it in the catalog.

    Args:
        engine: the name of the server's engine.
    """

    def __init__(self, store: Store, engine: str) -> None:
        self._store = store
        self._engine = engine
        self._models = RemoteModels(store.database, store.scope)
        self._refuses = store.settings.engine.on_change == "refuse"

    async def record(self, model: str, seen: ModelObservation | None) -> PinnedModel | None:
        """See :data:`~antiphon.engine.backends.remote.model_watch.Record`.

        Raises:
            UnavailableError: the catalog is away.
        """
        if seen is None:
            past = await asyncio.to_thread(self._models.past, self._engine, model, 2)
            return self._pinned(past[0], len(past) > 1) if past else None
        return await asyncio.to_thread(self._recorded, model, seen)

    def _recorded(self, model: str, seen: ModelObservation) -> PinnedModel:
        with self._store.database.transaction() as connection:
            past = self._models.past(self._engine, model, within=connection)
            now = self._store.database.clock.now()
            why = difference(_observation.decode(past[0].seen), seen) if past else ""
            if why is None:
                known = joined(_observation.decode(past[0].seen), seen)
                values = {"seen": _json(known), "evidence": known.evidence, "checked_at": now}
                self._models.set(past[0], within=connection, **values)
                return self._pinned(past[0], len(past) > 1)
            again = next((one for one in past if difference(_observation.decode(one.seen), seen) is None), None)
            found = RemoteModelVersion(
                engine=self._engine,
                model=model,
                sequence=past[0].sequence + 1 if past else 1,
                version=seen.version if again is None else again.version,
                evidence=seen.evidence,
                reason=why,
                seen=_json(seen) if again is None else again.seen,
                since=max(now, past[0].since) if past else now,
                checked_at=now,
            )
            self._models.add(found, within=connection)
            detail = {"model": model, "version": found.version, "reason": why or f"seen first, by {found.evidence}"}
            act = "model.change" if past else "model.see"
            self._store.audit.append(
                self._store.scope, OBSERVER, act, f"{self._engine}/{model}", detail, within=connection
            )
        if past:
            _log.warning(
                "The model %s of the engine %s is another one, %s instead of %s: %s.",
                *(model, self._engine, found.version, past[0].version, why),
            )
        else:
            _log.info("The model %s of the engine %s is %s, by %s.", model, self._engine, found.version, found.evidence)
        return self._pinned(found, bool(past))

    def _pinned(self, present: RemoteModelVersion, changed: bool) -> PinnedModel:
        refused = None
        if self._refuses and changed and present.accepted_by is None:
            refused = f"it is another one since {present.since:%Y-%m-%d %H:%M:%S}Z, and that has not been accepted"
        return PinnedModel(present.version, refused)


def look_seconds(store: Store) -> float:
    """Interval at which models behind servers are looked at; 0 for never."""
    every = store.settings.engine.model_check
    return 0.0 if every == "off" else parse_duration(every).total_seconds()


class RemoteModelLine(msgspec.Struct, frozen=True):
    """The present version of one model behind a server.

    Attributes:
        before: the version before it, if the model has changed; ``reason``: what showed it.
        outdated: live releases that were made live while it was another one.
        refused: it is not served until it is accepted.
    """

    engine: str
    model: str
    version: str
    evidence: str
    since: datetime
    checked_at: datetime
    before: str | None = None
    reason: str = ""
    outdated: tuple[str, ...] = ()
    refused: bool = False


def remote_model_lines(store: Store, scope: Scope) -> tuple[RemoteModelLine, ...]:
    """The models behind the servers, with the live releases of a scope that were made live with another version."""
    lines: dict[tuple[str, str], RemoteModelLine] = {}
    for one in RemoteModels(store.database, store.scope).list():
        place = (one.engine, one.model)
        if (line := lines.get(place)) is None:
            lines[place] = RemoteModelLine(
                one.engine, one.model, one.version, one.evidence, one.since, one.checked_at, None, one.reason,
                refused=store.settings.engine.on_change == "refuse" and one.sequence > 1 and one.accepted_by is None,
            )  # fmt: skip
        elif line.before is None:
            lines[place] = msgspec.structs.replace(line, before=one.version)
    for application in store.releases.applications(scope):
        live, moves = store.releases.live(scope, application), store.releases.history(scope, application)
        if live is None or not moves:
            continue
        for model in _models_of(store, live):
            place = (model.engine, model.model)
            if place in lines and _change(store, model, moves[-1].at) is not None:
                lines[place] = msgspec.structs.replace(lines[place], outdated=(*lines[place].outdated, live.id))
    return tuple(lines.values())


def changed_since(store: Store, release: Release, moment: datetime) -> str | None:
    """In words, that a release's model, or one of its fallbacks, is not the one that was served under its name at a
    moment; ``None`` where nothing shows that, as of a model of our own."""
    found = (_change(store, model, moment) for model in _models_of(store, release))
    return next((change for change in found if change is not None), None)


def remote_version(store: Store, release: Release, fingerprints: Sequence[str]) -> RemoteVersions:
    """See :data:`~antiphon.learning.evaluation.validation.RemoteVersion`."""
    known = [(model.own, found.version) for model in _models_of(store, release) if (found := _present(store, model))]
    answered = {version_of(one, release.bundle.model.name) for one in fingerprints}
    return RemoteVersions(
        next((version for own, version in known if own), None),
        frozenset(one for one in answered if one is not None),
        tuple(version for own, version in known if not own),
    )


def evaluated_now(store: Store, release: Release, evaluation: Evaluation) -> bool:
    """Tells whether the model that an evaluation is of is served now, as far as that can be known."""
    found = remote_version(store, release, evaluation.fingerprints)
    return found.present is None or found.answered <= {found.present}


class _RemoteModel(msgspec.Struct, frozen=True):
    """A model behind a server that a release is answered by: its ``own``, or one of a fallback."""

    engine: str
    model: str
    own: bool = False


def _models_of(store: Store, release: Release) -> Iterator[_RemoteModel]:
    """The models of a release that a server may change: none that are files of ours."""
    pin = release.bundle.model
    remote = store.settings.engine.kind == "remote"
    if remote and pin.weights_sha256 is None and pin.version is None:
        yield _RemoteModel(MAIN, pin.name, own=True)
    for named in release.bundle.application.fallback:
        target = target_of(named, pin.name)
        if target.engine in store.settings.engines or (remote and target.engine == MAIN):
            yield _RemoteModel(target.engine, target.model)


def _present(store: Store, model: _RemoteModel) -> RemoteModelVersion | None:
    """The version that a server serves now; ``None`` where none is known."""
    models = RemoteModels(store.database, store.scope)
    return next(iter(models.past(model.engine, model.model, 1, within=store.database.writer)), None)


def _change(store: Store, model: _RemoteModel, moment: datetime) -> str | None:
    """In words, that a server serves another version than at a moment.

    A release was measured with its own model, so one that was not known then counts as changed. A fallback was not, and
    may be looked at first when it is first needed: only another version than a known one is a change of it.
    """
    present = _present(store, model)
    models = RemoteModels(store.database, store.scope)
    then = models.at(model.engine, model.model, moment, within=store.database.writer)
    if present is None or (then is None and not model.own) or (then is not None and then.version == present.version):
        return None
    named = f"Its model {model.model}" if model.own else f"The model of its fallback {model.engine}/{model.model}"
    was = f"it was {then.version} before ({present.reason})" if then is not None else "it was not known before"
    return f"{named} is {present.version} since {present.since:%Y-%m-%d %H:%M:%S}Z; {was}."


def accept(store: Store, engine: str, model: str, *, principal: str, reason: str) -> RemoteModelVersion:
    """Have the present version of a model served where a changed one is refused.

    Raises:
        NotFoundError: no model of this name was seen behind this engine.
    """
    models = RemoteModels(store.database, store.scope)
    with store.database.transaction() as connection:
        past = models.past(engine, model, 1, within=connection)
        if not past:
            raise NotFoundError(
                f"No model {model!r} was seen behind the engine {engine!r}.",
                where=str(store.scope),
                next_step="See `antiphon models list`.",
            )
        models.set(past[0], within=connection, accepted_by=principal)
        detail = {"model": model, "version": past[0].version, "reason": reason}
        store.audit.append(store.scope, principal, "model.accept", f"{engine}/{model}", detail, within=connection)
    return msgspec.structs.replace(past[0], accepted_by=principal)


def _json(seen: ModelObservation) -> str:
    return msgspec.json.encode(seen).decode()
