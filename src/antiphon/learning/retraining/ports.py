"""What retraining needs from other rooms. ``app`` passes the implementations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from antiphon.catalog.datasets import Dataset, DatasetKind, DatasetSpec
from antiphon.catalog.evaluations import Evaluation
from antiphon.catalog.releases import Release
from antiphon.catalog.rollouts import RolloutRecord
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import TrainingWindow
from antiphon.engine.api.messages import EngineDescription
from antiphon.learning.evaluation.gates import ValidationResult
from antiphon.training.order import Progress as TrainingProgress
from antiphon.training.order import Trained, TrainingOrder


class Run(Protocol):
    """One execution of a durable workflow (``durable.RunContext``)."""

    @property
    def id(self) -> str: ...
    @property
    def scope(self) -> Scope: ...
    @property
    def stopping(self) -> bool: ...
    async def step(self, name: str, fn: Callable[..., Any], *args: Any) -> Any: ...
    async def transaction(self, name: str, fn: Callable[[Any], Any]) -> Any: ...
    def progress(self, done: int, total: int | None = None, note: str = "") -> None: ...


class BuildDatasets(Protocol):
    """Plans and builds datasets (``learning.datasets.builder.DatasetBuilder``)."""

    def plan(
        self,
        application: ApplicationSpec,
        window: TrainingWindow | None = ...,
        *,
        kind: DatasetKind = ...,
        cutoff: datetime | None = ...,
        examples: int | None = ...,
    ) -> DatasetSpec:
        """Raises ``InvalidInputError`` when the window is none, or nothing is held out to evaluate on."""
        ...

    def build(self, spec: DatasetSpec) -> Dataset:
        """Raises ``InvalidInputError`` for an empty or single-class set."""
        ...

    def rebuild(self, dataset: str) -> Dataset:
        """Raises ``ConflictError`` naming the source that changed."""
        ...


class Trainer(Protocol):
    """Runs a training in a process of its own (``training.processes.TrainingProcesses``)."""

    async def run(
        self, order: TrainingOrder, on_progress: Callable[[TrainingProgress], None], stopping: Callable[[], bool]
    ) -> Trained: ...


class Serving(Protocol):
    """Lets the engine serve what a release pins; raises ``UnavailableError`` while it cannot."""

    def __call__(self, release: Release) -> Awaitable[None]: ...


class Describe(Protocol):
    """The engine's description of itself."""

    def __call__(self) -> Awaitable[EngineDescription]: ...


class Evaluate(Protocol):
    """Evaluates a release on a dataset through serving's ``answer()``, paired with another release's answers."""

    def __call__(
        self,
        release: Release,
        dataset: Dataset,
        *,
        id: str,
        against: str | None,
        texts: int,
        progress: Callable[[int, int, str], None],
    ) -> Awaitable[Evaluation]:
        """With the classes of every row, and the whole output (and the attack sets) of ``texts`` rows.

        An ``id`` again goes on with what it has, or returns what was found.
        """
        ...


class Validate(Protocol):
    """Lets a release become validated by its evaluation, or says why not."""

    def __call__(self, release: Release, evaluation: Evaluation, *, principal: str) -> ValidationResult: ...


class BeginRollout(Protocol):
    """Sends a validated release on its way (``releases.rollout.RolloutTransitions.begin``)."""

    def __call__(
        self, scope: Scope, release: str, *, principal: str, reason: str, force: bool = ..., within: Any = None
    ) -> RolloutRecord: ...


class BaseWeights(Protocol):
    """Where the weights of a base model lie, with their SHA-256; raises ``SetupError`` when they were not pulled."""

    def __call__(self, name: str) -> tuple[Path, str]: ...


class Submit(Protocol):
    """Queues durable runs (``durable.runs.Runs.submit``)."""

    def __call__(
        self,
        scope: Scope,
        workflow: str,
        arguments: Mapping[str, Any],
        key: str | None = None,
        *,
        max_attempts: int = ...,
    ) -> str: ...


class Audit(Protocol):
    """Records an act in the transaction that did it (``governance.audit.AuditLog.append``)."""

    def __call__(
        self,
        scope: Scope,
        principal: str,
        action: str,
        subject: str,
        detail: Mapping[str, Any] | None = None,
        *,
        within: Any = None,
    ) -> Any: ...
