"""Model versions: what was trained, from what, and the aliases people call them by.

Invariant: a version never changes; an alias is a sequence of moves that only grows.
"""

from __future__ import annotations

import builtins
import re
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import func, insert, select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import missing, next_moment, row_of, value_of
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.learning import Canaries

_ALIAS = re.compile(r"[a-z0-9][a-z0-9-]{0,39}\Z")


class ModelFile(msgspec.Struct, frozen=True):
    """One file of a version, relative to the project's ``models`` folder."""

    path: str
    sha256: str
    size: int


class TrainedCandidate(msgspec.Struct, frozen=True):
    """One of several recipes that were tried side by side.

    Attributes:
        settings: by which it differs from the declared recipe.
        model: the version that it became; ``None`` when it was cut off or failed.
        seconds: of training.
        why: the reason why it is no version.
    """

    settings: dict[str, float]
    model: str | None
    seconds: float
    why: str = ""


class LearnedPreferences(msgspec.Struct, frozen=True):
    """Preferences of people, as a version learned them.

    Attributes:
        sha256: of the file of preferences.
        pairs: texts preferred to others of the same prompt; ``liked`` and ``disliked``: texts by themselves.
        dropped: why others were left out to how many: ``outside-window``, ``receipt-gone``, ``text-erased``,
            ``stand-in`` (another engine or a stored answer stood in), ``template`` (a guard wrote it), ``other-prompt``
            (served with other words than the model will be told), ``other-model`` (by one of another base),
            ``other-request`` (compared with an answer to something else), ``not-text`` (the prompt was not kept as a
            text), ``contradictory``, ``unwritten`` (no text that the model could write), ``sampled-out``,
            ``policy: …``.
    """

    sha256: str
    pairs: int = 0
    liked: int = 0
    disliked: int = 0
    dropped: dict[str, int] = {}

    @property
    def count(self) -> int:
        """All together."""
        return self.pairs + self.liked + self.disliked


class ModelVersion(msgspec.Struct, frozen=True):
    """One trained version of an application's model.

    Attributes:
        id: ``APPLICATION.vN``; engines serve it as :attr:`served_name`.
        base, base_sha256: the base model and the SHA-256 of its weights.
        dataset: id of the dataset; ``dataset_hash`` its logical hash; ``replay_datasets`` those of earlier examples. Of
            a version that was imported, or learned preferences, they are empty, and nothing later than
            ``learned_until`` was learned from.
        parent: the version that training went on from, if any.
        recipe: every setting of the training (``training.recipe.Recipe`` as plain values).
        identity: hash of base, dataset, parent, recipe and code: the same identity trains the same weights on the
            same machine.
        code: version of the package and hash of the room ``training``.
        adapter, weights: the LoRA matrices, and the merged and quantized weights that are served.
        losses: (step, loss) as they were reported. ``seconds``: of training, pauses left out.
        environment: library versions, threads, processor.
        canaries: the made-up secrets that were planted among its examples, if any were.
        candidates: every recipe that was tried beside it, and its own; none where only one was.
        held_out: id of the dataset on which these were compared.
        preferences: what it learned, where it learned what people preferred.
    """

    id: str
    scope: Scope
    application: str
    number: int
    base: str
    base_sha256: str
    dataset: str
    dataset_hash: str
    replay_datasets: tuple[str, ...]
    parent: str | None
    recipe: dict[str, Any]
    identity: str
    code: str
    adapter: ModelFile
    weights: ModelFile
    losses: tuple[tuple[int, float], ...]
    seconds: float
    environment: dict[str, str]
    run: str | None
    created_at: datetime
    canaries: Canaries | None = None
    candidates: tuple[TrainedCandidate, ...] = ()
    held_out: str | None = None
    learned_until: datetime | None = None
    preferences: LearnedPreferences | None = None

    @property
    def served_name(self) -> str:
        """The name by which engines serve it, of all tenants' versions: ``TENANT/APPLICATION.vN``."""
        return f"{self.scope.tenant}/{self.id}"


class AliasMove(msgspec.Struct, frozen=True):
    """An alias (``latest``, ``champion``) coming to name a version."""

    application: str
    alias: str
    sequence: int
    model: str
    principal: str
    reason: str
    at: datetime


class ModelVersions:
    """Repository of model versions and of the aliases that name them. Rows are only ever added."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, version: ModelVersion, *, within: Connection | None = None) -> ModelVersion:
        """Register a version. Registering what was trained from the same things under the same id changes nothing.

        Raises:
            ConflictError: the id or the number is taken by another version of the application.
        """
        table, document = schema.model_versions, msgspec.json.encode(version)
        with self._database.writing(within) as connection:
            known = self._select(version.scope, connection, id=version.id)
            if known and known[0].identity == version.identity:
                return known[0]
            row = row_of(table, version, weights_sha256=version.weights.sha256, document=document)
            if not connection.execute(upsert(table).values(row).on_conflict_do_nothing()).rowcount:
                raise ConflictError(
                    f"{version.application} has a version {version.number} already, and it is another one.",
                    where=version.id,
                    next_step="Take the next number; `antiphon models list` shows what there is.",
                )
        return version

    def tenants(self, environment: str) -> builtins.list[str]:
        """The tenants that have versions in an environment."""
        table = schema.model_versions
        statement = select(table.c.tenant).where(table.c.environment == environment).distinct().order_by(table.c.tenant)
        return [row.tenant for row in self._database.rows(statement)]

    def next_number(self, scope: Scope, application: str, *, within: Connection | None = None) -> int:
        """The number that the application's next version has; it holds only inside the transaction that adds it."""
        table = schema.model_versions
        highest = select(func.max(table.c.number)).where(schema.owned(table, scope, application=application))
        return (self._database.scalar(highest, within) or 0) + 1

    def get(self, scope: Scope, version: str, *, within: Connection | None = None) -> ModelVersion:
        """One version.

        Raises:
            NotFoundError: there is none of this id here.
        """
        found = self._select(scope, within, id=version)
        if not found:
            raise missing("model version", version, scope, "See `antiphon models list`.")
        return found[0]

    def list(
        self, scope: Scope, application: str | None = None, *, within: Connection | None = None
    ) -> list[ModelVersion]:
        """Versions by application, latest first."""
        return self._select(scope, within, application=application)

    def alias(
        self,
        scope: Scope,
        application: str,
        alias: str,
        model: str,
        principal: str,
        reason: str,
        *,
        within: Connection | None = None,
    ) -> AliasMove:
        """Let an alias name a version; naming the one it names already changes nothing.

        Raises:
            NotFoundError: the application has no such version.
            InvalidInputError: the alias is no short lower-case word.
        """
        if not _ALIAS.match(alias):
            raise InvalidInputError(
                f"{alias!r} cannot be an alias.",
                where="alias",
                next_step="Use lower-case letters, digits and hyphens, at most 40: champion.",
            )
        with self._database.writing(within) as connection:
            if self.get(scope, model, within=connection).application != application:
                raise NotFoundError(
                    f"The model version {model!r} is not one of {application!r}.",
                    where=str(scope),
                    next_step=f"See `antiphon models list {application}`.",
                )
            before = self._moves(scope, application, alias, connection)
            if before and before[-1].model == model:
                return before[-1]
            at = next_moment(self._database.clock, before)
            move = AliasMove(application, alias, len(before) + 1, model, principal, reason, at)
            connection.execute(insert(schema.model_aliases).values(row_of(schema.model_aliases, move, scope)))
        return move

    def aliased(self, scope: Scope, application: str, alias: str) -> ModelVersion | None:
        """The version an alias names now, ``None`` when it names none."""
        with self._database.read() as connection:
            moves = self._moves(scope, application, alias, connection)
            return self.get(scope, moves[-1].model, within=connection) if moves else None

    def aliases(self, scope: Scope, application: str) -> dict[str, builtins.list[AliasMove]]:
        """Every alias of an application to its moves, first to last; the last one holds."""
        found: dict[str, builtins.list[AliasMove]] = {}
        for move in self._moves(scope, application):
            found.setdefault(move.alias, []).append(move)
        return found

    def _moves(
        self, scope: Scope, application: str, alias: str | None = None, within: Connection | None = None
    ) -> builtins.list[AliasMove]:
        table = schema.model_aliases
        conditions = (schema.owned(table, scope, application=application), *schema.given(table, alias=alias))
        statement = select(table).where(*conditions).order_by(table.c.alias, table.c.sequence)
        return [value_of(AliasMove, row) for row in self._database.rows(statement, within)]

    def _select(self, scope: Scope, within: Connection | None, **of: str | None) -> builtins.list[ModelVersion]:
        table = schema.model_versions
        statement = select(table.c.document).where(schema.owned(table, scope), *schema.given(table, **of))
        with self._database.reading(within) as connection:
            rows = connection.execute(statement.order_by(table.c.application, table.c.number.desc()))
            return [msgspec.json.decode(document, type=ModelVersion) for document in rows.scalars()]
