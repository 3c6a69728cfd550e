"""The product's own step loop, executor and sequences under a virtual clock: only the model's calls are replaced.

Invariant: nothing here decides. A call of the runtime advances the clock by the calibrated mean times the machine's
pace of the moment and a drawn residual; arrivals enter the loop's inbox when the clock has passed them, as they do in a
real engine, and when there is nothing to do the clock jumps to the next one. The same seed gives the same run.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from benchmarks.colocation.calibration import PACE_SECONDS, Calibration, Table
from benchmarks.colocation.outcome import Outcome, Served, Work
from benchmarks.colocation.policies import Policy
from benchmarks.colocation.traces import BATCH_IN_FLIGHT, BATCH_OUTPUT_TOKENS, BATCH_PROMPT_TOKENS, Request

from antiphon.engine.api.messages import Delta, GenerationRequest, ModelDescription, Priority, RequestFailure
from antiphon.engine.execution.model_executor import Emission
from antiphon.engine.execution.prefix_cache import hash_prefixes
from antiphon.engine.execution.runtime import CallInterruptedError, Layout, Logits, SequenceState, TokenVocabulary
from antiphon.engine.execution.sequence import Sequence as Generation
from antiphon.engine.execution.step_loop import Message, StepLoop
from antiphon.engine.scheduling.service_level import ServiceLevel

MOST_STRETCH = 40.0
"""A run whose clock passes this many windows serves nobody any more and is ended."""

GIVING_UP_SECONDS = 0.001
"""From an interruption to the end of the call in flight: about one operation of the model's graph."""

Pace = Callable[[float], float]

_PIECES = (b"", b" a")


class VirtualClock:
    """Seconds since the run's begin; what :func:`time.monotonic` is to a real engine.

    ``ring`` is called at the moment of each of ``alarms`` (ascending), also in the middle of a call of the model: that
    is when another thread would hand over an arrival.
    """

    def __init__(self, alarms: Sequence[float] = (), ring: Callable[[], None] = lambda: None) -> None:
        self.now = 0.0
        self._alarms = list(alarms)[::-1]
        self._ring = ring

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass; whether all of it did, and was not given up at an alarm."""
        until = self.now + seconds
        while self._alarms and self._alarms[-1] <= until:
            self.now = max(self.now, self._alarms.pop())
            self._ring()
            if given_up():
                self.now = min(self.now + GIVING_UP_SECONDS, until)
                return False
        self.now = until
        return True

    def jump(self, otherwise: float) -> None:
        """To the next alarm, or to ``otherwise`` when there is none."""
        self.advance(max((self._alarms[-1] if self._alarms else otherwise) - self.now, 0.0))


class Costless:
    """Implements :class:`~antiphon.engine.execution.runtime.Runtime` without a model: one token, no time."""

    def __init__(self, layout: Layout, vocabulary: int = len(_PIECES)) -> None:
        self.layout = layout
        self.vocabulary = TokenVocabulary(_PIECES + (b"",) * (vocabulary - len(_PIECES)), frozenset({0}))
        self.description = ModelDescription("costed", "costed", layout.context_tokens, "", (), "", "")
        self.grammar_tokenizer: Any = None
        self._held = [0] * layout.slots
        self._interrupted = False
        self._chosen: Logits = np.zeros(vocabulary, dtype=np.float32)
        self._chosen[1] = 1.0

    def tokenize(self, text: str) -> list[int]:
        return [1] * len(text)

    def feed(self, slot: int, position: int, tokens: Sequence[int], want_logits: bool) -> Logits | None:
        assert position == self._held[slot]
        self._held[slot] = position + len(tokens)
        return self._chosen if want_logits else None

    def score(self, slot: int, position: int, tokens: Sequence[int]) -> list[Logits]:
        self.feed(slot, position, tokens, False)
        return [self._chosen] * len(tokens)

    def step(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> list[Logits]:
        for slot, position in zip(slots, positions, strict=True):
            assert position == self._held[slot]
            self._held[slot] = position + 1
        return [self._chosen] * len(tokens)

    def drop(self, slot: int) -> None:
        self._held[slot] = 0

    def copy_state(self, slot: int) -> SequenceState:
        return np.frombuffer(self._held[slot].to_bytes(8, "big"), dtype=np.uint8)

    def restore_state(self, slot: int, state: SequenceState) -> None:
        self._held[slot] = int.from_bytes(state.tobytes(), "big")

    def interrupt(self) -> None:
        self._interrupted = True

    def rearm(self) -> None:
        self._interrupted = False

    def rest(self) -> None:
        pass

    def wake(self) -> None:
        pass

    @property
    def resting(self) -> bool:
        return False

    def close(self) -> None:
        self._held = []


class Costed(Costless):
    """Each call takes what the calibration says it takes here.

    ``draw=None`` leaves the machine's noise out: every call takes its mean. ``pace`` says by how much calls are slower
    than calibrated at a moment of the run.
    """

    def __init__(
        self,
        calibration: Calibration,
        clock: VirtualClock,
        draw: np.random.Generator | None,
        pace: Pace = lambda _: 1.0,
    ) -> None:
        super().__init__(Layout(calibration.chunk_tokens, calibration.slots, 1024))
        self._calibration = calibration
        self._clock = clock
        self._draw = draw
        self._pace = pace
        # The machine's pace as it was measured, from a moment that is drawn.
        self._measured = np.roll(calibration.pace, 0 if draw is None else -int(draw.integers(len(calibration.pace))))
        self._decode, self._prefill = Table(calibration.decode), Table(calibration.prefill)
        self._residuals = {
            "decode": np.array(calibration.decode_residuals),
            "prefill": np.array(calibration.prefill_residuals),
        }

    def feed(self, slot: int, position: int, tokens: Sequence[int], want_logits: bool) -> Logits | None:
        count = len(tokens)
        self._spend("prefill", self._prefill.seconds(count, position), 1)
        return super().feed(slot, position, tokens, want_logits)

    def step(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> list[Logits]:
        count = len(tokens)
        self._spend("decode", self._decode.seconds(count, sum(positions) / count), count)
        return super().step(slots, positions, tokens)

    def copy_state(self, slot: int) -> SequenceState:
        self._clock.advance(self._calibration.move_seconds * self._held[slot])
        return super().copy_state(slot)

    def restore_state(self, slot: int, state: SequenceState) -> None:
        super().restore_state(slot, state)
        self._clock.advance(self._calibration.move_seconds * self._held[slot])

    def _spend(self, kind: str, mean: float, sequences: int) -> None:
        now = self._clock.now
        residual, measured = 1.0, 1.0
        if self._draw is not None:
            measured = self._measured[int(now / PACE_SECONDS) % len(self._measured)]
            quantiles = self._residuals[kind]
            at = self._draw.random() * (len(quantiles) - 1)
            left = min(int(at), len(quantiles) - 2)
            residual = quantiles[left] + (at - left) * (quantiles[left + 1] - quantiles[left])
        own = self._calibration.step_seconds + self._calibration.sequence_seconds * sequences
        computing = float(mean * residual * measured) * self._pace(now)
        if not self._clock.advance(computing + own, lambda: self._interrupted):
            raise CallInterruptedError


class Inbox(queue.SimpleQueue[Message]):
    """The step loop's inbox in virtual time: when nothing is left to do, the clock jumps."""

    def __init__(self, clock: VirtualClock, ends: float, more: Callable[[], None]) -> None:
        self._clock = clock
        self._ends = ends
        self._more = more
        self._ready: list[Message] = []

    def put(self, item: Message, block: bool = True, timeout: float | None = None) -> None:
        self._ready.append(item)

    def empty(self) -> bool:
        return not self._ready

    def get(self, block: bool = True, timeout: float | None = None) -> Message:
        self._more()
        if not self._ready and block:
            self._clock.jump(self._ends)
            self._more()
        if not self._ready:
            raise queue.Empty
        return self._ready.pop(0)


class _Run:
    """One run: who is told what, when, and what batch work comes next."""

    def __init__(self, online: Sequence[Request], seconds: float, policy: Policy) -> None:
        self.clock = VirtualClock([request.at for request in online], self._arrive)
        self._waiting = list(enumerate(online, start=1))[::-1]
        self._seconds = seconds
        self._batch = policy.takes_batch
        self._level = policy.level
        self.served = [Served(request.at, request.prompt_tokens, request.output_tokens, []) for request in online]
        self.batch_tokens = 0
        self.busy_seconds = 0.0
        self._open = len(online)
        self._in_flight: set[int] = set()
        self._tickets = len(online)
        self._stopped = False
        self.loop: StepLoop
        self.failures: list[RequestFailure] = []

    def _arrive(self) -> None:
        ticket, request = self._waiting.pop()
        executor = self.loop.executors[0]
        self.loop.submit(executor, generation(executor.runtime, ticket, request, "online", self._level))

    def more(self) -> None:
        """What the loop is told beside arrivals: batch work to keep it saturated, and in the end to stop."""
        if self.clock.now <= self._seconds:
            self.busy_seconds = self.loop.executors[0].counters.busy_seconds
        over = not self._open and self.clock.now >= self._seconds
        if over or self.clock.now > self._seconds * MOST_STRETCH + 60.0:
            if not self._stopped:
                self._stopped = True
                for ticket in (*self._in_flight, *range(1, len(self.served) + 1)):
                    self.loop.cancel(ticket)
                self.loop.stop()
        elif self._batch:
            while len(self._in_flight) < BATCH_IN_FLIGHT:
                self._tickets += 1
                self._in_flight.add(self._tickets)
                executor = self.loop.executors[0]
                wanted = Request(self.clock.now, BATCH_PROMPT_TOKENS, BATCH_OUTPUT_TOKENS)
                self.loop.submit(executor, generation(executor.runtime, self._tickets, wanted, "batch"))

    def told(self, emissions: list[Emission]) -> None:
        """The loop's emissions, at the clock's moment."""
        for ticket, event in emissions:
            online = ticket <= len(self.served)
            if isinstance(event, RequestFailure):
                self.failures.append(event)
            if isinstance(event, Delta):
                if online:
                    self.served[ticket - 1].tokens.extend([self.clock.now] * len(event.tokens))
                else:
                    self.batch_tokens += len(event.tokens) * (self.clock.now <= self._seconds)
            elif online:
                self._open -= 1
            else:
                self._in_flight.discard(ticket)


def generation(
    runtime: Any, ticket: int, request: Request, priority: Priority, level: ServiceLevel | None = None
) -> Generation:
    """A sequence of forced length whose prompt shares no beginning with another's."""
    prompt = [ticket + 100] + [1] * (request.prompt_tokens - 1)
    wanted = GenerationRequest(
        str(ticket), "costed", "", request.output_tokens, priority=priority, level=level, ignore_end=True
    )
    return Generation(
        ticket=ticket,
        request=wanted,
        prompt=prompt,
        forced=[],
        constraint=None,
        vocabulary=runtime.vocabulary,
        prefix_hashes=hash_prefixes(prompt, runtime.layout.chunk_tokens),
        arrived=request.at,
    )


def simulate(
    calibration: Calibration,
    policy: Policy,
    online: Sequence[Request],
    seconds: float,
    *,
    seed: int = 0,
    noise: int = 0,
    residuals: bool = True,
    pace: Pace = lambda _: 1.0,
) -> Outcome:
    """One run of a policy, with an endless batch of which 32 requests are always in the engine.

    Args:
        online: open-loop arrivals by ascending ``at``.
        seed, noise: of the machine's noise, which the policies of one seed share.
        residuals: draw the machine's noise; otherwise every call takes its mean.
        pace: how many times as long calls take at a moment of the run, beside that noise.
    """
    run = _Run(online, seconds, policy)
    runtime = Costed(calibration, run.clock, np.random.default_rng([seed, noise]) if residuals else None, pace)
    loop = run.loop = policy.loop(runtime, run.clock, run.told, Inbox(run.clock, seconds, run.more))
    executor = loop.executors[0]
    loop.run()
    if run.failures:
        raise RuntimeError(f"The simulated engine failed a request: {run.failures[0].message}")
    return Outcome(
        policy=policy.name,
        seconds=seconds,
        served=tuple(run.served),
        batch_tokens=run.batch_tokens,
        busy_seconds=run.busy_seconds,
        steps=executor.counters.steps,
        simulated=True,
        work=Work(
            executor.counters.steps,
            executor.counters.generated_tokens_online + executor.counters.generated_tokens_batch,
            executor.counters.prefilled_tokens,
            executor.counters.call_seconds,
        ),
    )
