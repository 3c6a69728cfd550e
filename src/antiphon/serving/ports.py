"""What an answer needs from other rooms. ``app`` passes the implementations."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from antiphon.catalog.answers import StoredAnswer
from antiphon.catalog.receipts import Receipt
from antiphon.catalog.releases import Release
from antiphon.catalog.rollouts import Assignment, Exposure, ShadowPair
from antiphon.catalog.snapshot_facts import SnapshotFacts
from antiphon.core.scope import Scope
from antiphon.definitions.application import Freshness
from antiphon.engine.api.messages import (
    Delta,
    EngineDescription,
    GenerationRequest,
    GenerationResult,
    TextEmbeddingRequest,
    TextEmbeddings,
)
from antiphon.features.online.remedies import SubstituteValue

T = TypeVar("T")


class FeatureValue(Protocol):
    """One feature as it was read."""

    @property
    def value(self) -> float | int | str | bool | None: ...
    @property
    def event_time(self) -> datetime | None: ...
    @property
    def snapshot(self) -> str | None: ...
    @property
    def stream_offset(self) -> int | None: ...
    @property
    def definition_version(self) -> str: ...


class FeatureVector(Protocol):
    """Values of one publication, by ``view.feature``; without a number when they come from a dataset."""

    @property
    def publication(self) -> int | None: ...
    @property
    def values(self) -> Mapping[str, FeatureValue]: ...
    @property
    def facts(self) -> Mapping[str, SnapshotFacts]:
        """View to what its snapshot says about itself; without those that do not say."""
        ...


class FeatureReader(Protocol):
    """Reads the features of one scope."""

    def read(
        self,
        views: Mapping[str, str],
        keys: Mapping[str, str],
        as_of: datetime,
        minimum_publication: int | None = None,
    ) -> FeatureVector:
        """Values of the views (name to definition version) for an entity, all of one publication."""
        ...


class Remedies(Protocol):
    """What stands in for stale values, where a contract asks for it."""

    def remedied(
        self,
        scope: Scope,
        view: tuple[str, str],
        keys: Sequence[Mapping[str, str]],
        as_of: datetime,
        contract: Freshness,
        publication: int,
    ) -> Sequence[Mapping[str, SubstituteValue]]:
        """Of each entity the values, by ``view.feature``, that meet the contract of a view (name, version)."""
        ...


class GenerationEngine(Protocol):
    """Generates text."""

    async def describe(self) -> EngineDescription: ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        """Deltas, then the end. Closing the iterator frees the slot."""
        ...


class TextEmbedding(Protocol):
    """Turns texts into vectors."""

    async def embed(self, request: TextEmbeddingRequest) -> TextEmbeddings:
        """Cancelling gives the texts up."""
        ...


class EmbeddingEngine(GenerationEngine, TextEmbedding, Protocol):
    """Generates text and turns texts into vectors."""


class Decision(Protocol):
    """What policy said."""

    @property
    def allowed(self) -> bool: ...
    @property
    def policies(self) -> tuple[str, ...]: ...
    @property
    def digest(self) -> str: ...
    @property
    def masked(self) -> tuple[str, ...]:
        """Features that are to be read as absent; ``VIEW.*`` is every feature of a view."""
        ...

    @property
    def reason(self) -> str:
        """Why, in a few words."""
        ...


class Decide(Protocol):
    """One policy decision for an answer."""

    def __call__(self, principal: Any, action: str, resource: Any, context: Mapping[str, Any]) -> Decision: ...


class LiveReleases(Protocol):
    """Which release answers now."""

    def live(self, scope: Scope, application: str) -> Release | None: ...
    def get(self, scope: Scope, release: str) -> Release: ...
    def applications(self, scope: Scope) -> Sequence[str]:
        """Names of the applications that have a live release."""
        ...

    def previous(self, scope: Scope, application: str) -> Release | None:
        """The release that was live before the one that is; ``None``: there was none."""
        ...

    def assign(self, scope: Scope, application: str, unit: str, request_id: str) -> Assignment | None:
        """The release that answers this unit, and in which capacity; ``None``: the application has no live one."""
        ...


class StoredAnswers(Protocol):
    """Answers made earlier. ``release`` is a namespace: a release's id, or that of one arm of a rollout."""

    def latest(
        self, scope: Scope, release: str, subject: str, question_hash: str, *, as_of: datetime | None = None
    ) -> StoredAnswer | None: ...
    def by_prompt(self, scope: Scope, prompt_key: str) -> StoredAnswer | None: ...
    def put(self, answer: StoredAnswer, *, within: Any = None) -> None: ...


class Texts(Protocol):
    """Content-addressed texts."""

    def get(self, scope: Scope, blob: str) -> bytes: ...


class Receipts(Protocol):
    """Where receipts are kept."""

    def add(self, receipt: Receipt, texts: Sequence[bytes] = (), *, within: Any = None) -> None: ...


class Exposures(Protocol):
    """Where the requests of both arms of a rollout are kept."""

    def add(self, exposure: Exposure, *, within: Any = None) -> None: ...


class ShadowPairs(Protocol):
    """Where online answers and their shadows are kept."""

    def add(self, pair: ShadowPair, *, within: Any = None) -> None: ...


class Commit(Protocol):
    """Commits what belongs together in one transaction, many requests' at a time; what was submitted is committed
    even if its caller is cancelled meanwhile."""

    def submit(self, effect: Callable[[Any], T]) -> Awaitable[T]: ...
