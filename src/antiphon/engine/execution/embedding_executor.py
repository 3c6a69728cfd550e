"""One embedding model in the step loop: vectors are made between the steps of models that generate.

Invariants:
- One text a turn, so a request waits for at most one text of another. Tenants take turns; of one tenant the oldest
  request goes first.
- A text of batch is embedded only in time that online work leaves: when no online request waits to be added, and the
  predicted call fits into the slack of the other models.
- The first text of an online request is embedded at once. Its other texts give way to tokens that would be late for
  them, each for no longer than a new request may wait.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from antiphon.core.errors import AntiphonError, EngineError, InvalidInputError, PromptTooLongError
from antiphon.engine.api.messages import EmbedderDescription, RequestFailure, TextEmbeddingRequest, TextEmbeddings
from antiphon.engine.execution.step_executor import Counters, Emission
from antiphon.engine.scheduling.latency_model import LatencyModel
from antiphon.engine.scheduling.state import StepBudget

MOST_TEXTS = 2_048
"""Most texts of one request, as at OpenAI."""


class Encoder(Protocol):
    """An embedding model; implemented on llama.cpp and by a simulated one.

    ``tokenize`` may be called from any thread, ``vector`` and ``close`` by one at a time.
    """

    @property
    def description(self) -> EmbedderDescription: ...

    def tokenize(self, text: str) -> list[int] | None:
        """Token ids with those that the model adds; ``None`` when they exceed its longest text."""
        ...

    def vector(self, tokens: list[int]) -> bytes:
        """Float32, little-endian, of length 1; raises ``EngineError``."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class EmbeddingWork:
    """One request in progress, owned by the step loop's thread. Times are of the engine's monotonic clock."""

    ticket: int
    request: TextEmbeddingRequest
    texts: list[list[int]]
    arrived: float
    began: float | None = None
    last: float = 0.0
    engine_seconds: float = 0.0
    vectors: bytearray = field(default_factory=bytearray)
    done: int = 0


class EmbeddingExecutor:
    """Implements :class:`~antiphon.engine.execution.step_executor.StepExecutor` for one embedding model."""

    slots = 0
    swapped_to_disk = 0
    resting = False

    def __init__(self, encoder: Encoder, monotonic: Callable[[], float], online_waiting: Callable[[], bool]) -> None:
        self.encoder, self.name = encoder, encoder.description.name
        self.counters = Counters()
        self._latency_model = LatencyModel()
        self._monotonic = monotonic
        self._online_waiting = online_waiting
        self._works: dict[int, EmbeddingWork] = {}
        self._turns: dict[str, int] = {}
        """Texts embedded in all when each tenant had its last turn, or when it arrived."""
        self.latest_step = (monotonic(), monotonic())

    @property
    def idle(self) -> bool:
        return not self._works

    @property
    def generates(self) -> bool:
        return False

    @property
    def serves_online(self) -> bool:
        return any(work.request.priority == "online" for work in self._works.values())

    def prepare(self, ticket: int, request: TextEmbeddingRequest) -> EmbeddingWork:
        """Check and tokenize a request; from any thread. Raises what :meth:`~antiphon.engine.api.port.Engine.embed`
        does."""
        arrived, description = self._monotonic(), self.encoder.description
        if not 1 <= len(request.texts) <= MOST_TEXTS:
            raise InvalidInputError(
                f"There are {len(request.texts)} texts.", where="input", next_step=f"Send 1 to {MOST_TEXTS}."
            )
        if request.dimensions not in (None, description.dimensions):
            raise InvalidInputError(
                f"{request.model} makes vectors of {description.dimensions} numbers, and was not trained to be "
                "shortened.",
                where="dimensions",
                next_step=f"Leave it out, or send {description.dimensions}.",
            )
        texts = []
        for place, text in enumerate(request.texts):
            where = "input" if len(request.texts) == 1 else f"input[{place}]"
            if not text.strip():
                raise InvalidInputError("An empty text has no vector.", where=where, next_step="Leave it out.")
            tokens = self.encoder.tokenize(text)
            if tokens is None:
                raise PromptTooLongError(
                    f"The text has more than the {description.tokens} tokens that {request.model} reads.",
                    where=where,
                    next_step="Split it, and embed the parts.",
                )
            texts.append(tokens)
        return EmbeddingWork(ticket, request, texts, arrived)

    def count(self, priority: str, *, waiting: bool) -> int:
        """Requests of a priority whose first text waits, or has begun."""
        return sum(
            1
            for work in list(self._works.values())
            if work.request.priority == priority and (work.began is None) == waiting
        )

    def add(self, work: EmbeddingWork) -> None:
        """Add a request."""
        if not self._works:
            self._turns.clear()
        self._turns.setdefault(work.request.tenant, self.counters.embedded_texts)
        self._works[work.ticket] = work

    def cancel(self, ticket: int) -> list[Emission]:
        """Drop a request."""
        work = self._works.pop(ticket, None)
        return [] if work is None else [_failed(work, EngineError("The request was cancelled."))]

    def fail_all(self, error: AntiphonError) -> list[Emission]:
        """End every request with the error."""
        works, self._works = self._works, {}
        return [_failed(work, error) for work in works.values()]

    def observe_online_step(self, begin: float, end: float) -> None:
        """Do nothing: due times here are of the wall clock."""

    def interrupt_batch(self) -> None:
        """Do nothing: a call is one text, and is not aborted."""

    def close(self) -> None:
        """Free the model."""
        self.encoder.close()

    def slack(self, budget: StepBudget) -> float:
        """Seconds by which other executors may delay this one now; infinite when it has no online request."""
        waits = [work.last or work.arrived for work in self._works.values() if work.request.priority == "online"]
        return budget.arrival_seconds - (self._monotonic() - min(waits)) if waits else inf

    def step(self, budget: StepBudget, *, slack_elsewhere: float = inf, leaves_gaps: bool = True) -> list[Emission]:
        """Embed one text, if it is its turn."""
        begin = self._monotonic()
        self.latest_step = (begin, begin)
        work = self._next()
        if work is None or not self._may(work, budget, slack_elsewhere, leaves_gaps):
            return []
        tokens = work.texts[work.done]
        work.vectors += self.encoder.vector(tokens)
        now = self._monotonic()
        self.latest_step = (begin, now)
        self._latency_model = self._latency_model.observe_feed(len(tokens), 0, now - begin)
        work.began = begin if work.began is None else work.began
        work.last, work.done = now, work.done + 1
        work.engine_seconds += now - begin
        self.counters.steps += 1
        self.counters.embedded_texts += 1
        self._turns[work.request.tenant] = self.counters.embedded_texts
        self.counters.embedded_tokens += len(tokens)
        self.counters.busy_seconds += now - begin
        if work.done < len(work.texts):
            return []
        del self._works[work.ticket]
        return [(work.ticket, self._result(work, work.began))]

    def _next(self) -> EmbeddingWork | None:
        """Online before batch; then the tenant whose last text is longest ago, its oldest request first."""
        return min(
            self._works.values(),
            key=lambda work: (work.request.priority != "online", self._turns[work.request.tenant], work.ticket),
            default=None,
        )

    def _may(self, work: EmbeddingWork, budget: StepBudget, slack_elsewhere: float, leaves_gaps: bool) -> bool:
        seconds = self._latency_model.feed(len(work.texts[work.done]), 0) * self._latency_model.feeding.excess
        fits = seconds <= slack_elsewhere
        if work.request.priority == "batch":
            # Beside online work a text takes as long as in the next gap: it would delay and gain nothing.
            waits = slack_elsewhere < inf and leaves_gaps
            return fits and not waits and not self._online_waiting()
        return fits or work.began is None or self._monotonic() - work.last >= budget.arrival_seconds

    def _result(self, work: EmbeddingWork, began: float) -> TextEmbeddings:
        description = self.encoder.description
        return TextEmbeddings(
            id=work.request.id,
            vectors=bytes(work.vectors),
            dimensions=description.dimensions,
            tokens=tuple(len(tokens) for tokens in work.texts),
            fingerprint=description.fingerprint,
            queue_seconds=began - work.arrived,
            engine_seconds=work.engine_seconds,
        )


def _failed(work: EmbeddingWork, error: AntiphonError) -> Emission:
    return (work.ticket, RequestFailure.of(work.request.id, error))


def unit_bytes(vector: NDArray[np.floating]) -> bytes:
    """The vector with length 1, as float32, little-endian: the bytes that feature views store of the same text. The
    length is a sum in float64 in a fixed order. Raises ``EngineError`` for a zero, a NaN or an infinity.
    """
    exact = vector.astype(np.float64)
    length = np.sqrt(float((exact * exact).sum()))
    if not np.isfinite(length) or length == 0:
        raise EngineError("The embedding model made a vector that is zero or not finite.")
    made: bytes = (exact / length).astype("<f4").tobytes()
    return made
