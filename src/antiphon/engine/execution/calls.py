"""Calls of one model's runtime: measured, charged to tenants, and interruptible where they compute batch work alone.

Invariant: a call that computes batch sequences alone gives way to online requests: it is not begun when one waits to be
added, and aborted when one arrives meanwhile. An aborted call leaves everything as if it had not begun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from contextlib import contextmanager

from antiphon.engine.execution.runtime import CallInterruptedError, Logits, Runtime
from antiphon.engine.execution.sequence import Sequence
from antiphon.engine.execution.step_executor import Counters
from antiphon.engine.scheduling.latency_model import LatencyModel
from antiphon.engine.scheduling.pacing import Pacer
from antiphon.engine.scheduling.tenant_shares import TenantShares


class RuntimeCalls:
    """Makes a runtime's calls and learns from each how long they take; pacer, shares and counters are told.

    Args:
        online_waiting: says if an online request waits to be added, so that batch work is not to be begun now.

    Attributes:
        began: beginning of the latest call.
    """

    def __init__(
        self,
        runtime: Runtime,
        monotonic: Callable[[], float],
        pacer: Pacer,
        shares: TenantShares,
        counters: Counters,
        online_waiting: Callable[[], bool],
    ) -> None:
        self.began = self._ended = 0.0
        self.latency_model = LatencyModel()
        self._runtime = runtime
        self._monotonic = monotonic
        self._pacer = pacer
        self._shares = shares
        self._counters = counters
        self._online_waiting = online_waiting
        self._interruptible_until: float | None = None
        """Expected end of a call that computes batch sequences alone; read by other threads."""

    def prefill(self, sequence: Sequence, slot: int, chunk: list[int], *, want_logits: bool) -> Logits | None:
        """Append tokens of one sequence; returns the logits after the last one if wanted."""
        scoring, model, position = sequence.scoring, self.latency_model, sequence.position
        expected = (model.score if scoring else model.feed)(len(chunk), position)
        with self._measured([sequence], expected):
            if scoring:
                every = self._runtime.score(slot, position, chunk)
                sequence.score(position, every)
                logits = every[-1] if want_logits else None
            else:
                logits = self._runtime.feed(slot, position, chunk, want_logits)
        observe = model.observe_score if scoring else model.observe_feed
        self.latency_model = observe(len(chunk), position, self._ended - self.began)
        return logits

    def decode(self, placed: Several[tuple[int, Sequence]]) -> list[Logits]:
        """Append one token to each of several sequences, given with their slots in ascending order."""
        positions = [sequence.position for _, sequence in placed]
        expected = self.latency_model.decode(len(placed), sum(positions))
        with self._measured([sequence for _, sequence in placed], expected):
            every = self._runtime.step(
                [slot for slot, _ in placed], positions, [sequence.pending[0] for _, sequence in placed]
            )
        self.latency_model = self.latency_model.observe_decode(len(placed), sum(positions), self._ended - self.began)
        return every

    def interrupt_batch(self) -> None:
        """Abort the call in flight if it computes batch sequences alone and would keep an online request waiting for
        longer than it may; from any thread."""
        until = self._interruptible_until
        if until is not None and until - self._monotonic() > self._pacer.patience:
            self._runtime.interrupt()

    @contextmanager
    def _measured(self, computed: list[Sequence], expected: float) -> Iterator[None]:
        """Measure and charge a call for some sequences that is expected to take so many seconds.

        Raises:
            CallInterruptedError: it would compute batch sequences alone, and an online request waits to be added.
        """
        self._runtime.rearm()
        self.began = self._monotonic()
        try:
            if all(sequence.request.priority == "batch" for sequence in computed):
                self._interruptible_until = self.began + expected
                # In this order: a request that came before the question is seen by it, a later one aborts the call.
                if self._online_waiting():
                    raise CallInterruptedError
            yield
        finally:
            self._interruptible_until = None
        self._ended = self._monotonic()
        seconds = self._ended - self.began
        self._counters.call_seconds += seconds
        self._pacer.observe_call(self.began, self._ended, expected)
        for sequence in computed:
            if sequence.request.priority == "online":
                self._shares.charge(sequence.request.tenant, seconds / len(computed))
