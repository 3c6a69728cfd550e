"""The interface between the step loop and the executors that it runs, one per model."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from math import inf
from typing import Any, Protocol

from antiphon.core.errors import AntiphonError
from antiphon.engine.api.messages import Delta, GenerationResult, RequestFailure, TextEmbeddings
from antiphon.engine.scheduling.state import StepBudget

Emission = tuple[int, Delta | GenerationResult | TextEmbeddings | RequestFailure]
"""(ticket, event for its caller)."""


@dataclass(slots=True)
class Counters:
    """Counts of an executor since it started, as in ``EngineLoad``; written by the step loop's thread alone."""

    steps: int = 0
    generated_tokens_online: int = 0
    generated_tokens_batch: int = 0
    prefilled_tokens: int = 0
    reused_prefix_tokens: int = 0
    interrupted_calls: int = 0
    interrupted_seconds: float = 0.0
    call_seconds: float = 0.0
    busy_seconds: float = 0.0
    embedded_texts: int = 0
    embedded_tokens: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(*(one + another for one, another in zip(astuple(self), astuple(other), strict=True)))


class StepExecutor(Protocol):
    """One model in the step loop.

    Implemented by :class:`~antiphon.engine.execution.model_executor.ModelExecutor` and
    :class:`~antiphon.engine.execution.embedding_executor.EmbeddingExecutor`; each adds its own kind of work, which has
    a ``request`` with a ``priority``.
    """

    @property
    def name(self) -> str: ...
    @property
    def slots(self) -> int: ...
    @property
    def idle(self) -> bool: ...
    @property
    def serves_online(self) -> bool: ...
    @property
    def generates(self) -> bool:
        """True where its work is texts, whose batch part is held while other work has the machine."""
        ...

    @property
    def swapped_to_disk(self) -> int: ...
    @property
    def resting(self) -> bool: ...
    @property
    def counters(self) -> Counters: ...
    @property
    def latest_step(self) -> tuple[float, float]:
        """Beginning and end of the latest step."""
        ...

    def observe_online_step(self, begin: float, end: float) -> None:
        """Note that another executor made a step for its online requests meanwhile."""
        ...

    def count(self, priority: str, *, waiting: bool) -> int: ...
    def add(self, work: Any, /) -> None: ...
    def cancel(self, ticket: int) -> list[Emission]: ...
    def fail_all(self, error: AntiphonError) -> list[Emission]: ...
    def interrupt_batch(self) -> None: ...
    def slack(self, budget: StepBudget) -> float: ...
    def step(self, budget: StepBudget, *, slack_elsewhere: float = inf, leaves_gaps: bool = True) -> list[Emission]:
        """Make one step and return the events for callers; on ``EngineError`` the work here cannot go on.

        Args:
            slack_elsewhere: seconds by which the other executors can be delayed.
            leaves_gaps: batch work can wait for a time without online work.
        """
        ...

    def close(self) -> None: ...
