"""One generation in flight: what is still to compute, what was chosen, what may be shown.

Invariant: everything here depends on the request and its own logits alone, never on neighbours or on time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from antiphon.engine.api.messages import (
    Alternative,
    Branch,
    Delta,
    GenerationRequest,
    GenerationResult,
    GenerationUsage,
    Penalties,
    TokenOut,
)
from antiphon.engine.execution import sampling
from antiphon.engine.execution.constrained import Constraint
from antiphon.engine.execution.prefix_cache import Chain
from antiphon.engine.execution.runtime import Logits, Vocabulary
from antiphon.engine.execution.transcript import Transcript

MOST_BRANCH_OPTIONS = 32

Reason = Literal["stop", "length", "cancelled"]


@dataclass(slots=True)
class Spent:
    """What one generation cost so far; see :class:`~antiphon.engine.api.messages.GenerationUsage`.

    ``accepted`` counts the tokens that were chosen from logits, ``last_token`` is when the last of them was.
    """

    arrived: float
    admitted: float | None = None
    first_token: float | None = None
    last_token: float = 0.0
    accepted: int = 0
    engine_seconds: float = 0.0
    steps: int = 0
    cached_tokens: int = 0


@dataclass(slots=True)
class _Emitted:
    token: TokenOut
    start: int
    end: int


class Sequence:
    """Mutable, owned by the step loop's thread.

    ``pending`` are the tokens that wait to enter the KV: the prompt with what the grammar forces right after it,
    later one sampled token with what it forces.
    """

    def __init__(
        self,
        *,
        ticket: int,
        request: GenerationRequest,
        prompt: list[int],
        forced: list[int],
        constraint: Constraint | None,
        vocabulary: Vocabulary,
        chain: Chain,
        arrived: float,
    ) -> None:
        self.ticket = ticket
        self.request = request
        self.prompt = prompt
        self.constraint = constraint
        self.vocabulary = vocabulary
        self.chain = chain
        self.spent = Spent(arrived)
        self.pending = prompt + forced
        self.position = 0
        self.slot: int | None = None
        self.kept = False
        self.keep_prefix_at = 0
        self.tokens: list[int] = []
        self.forced_tokens = 0
        self.branches: list[Branch] = []
        self.reason: Reason | None = None
        self._prefill = len(self.pending)
        self._transcript = Transcript(request.stop)
        self._generator = sampling.generator_for(request.seed)
        self._shown = 0
        self._held: list[_Emitted] = []
        self._counts: Counter[int] | None = Counter() if request.penalties != Penalties() else None
        self._scored: list[TokenOut] = []
        if self.scored:
            self._scored = [TokenOut(prompt[0], "", None, False)]
        self._record_forced(forced)

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt)

    @property
    def scored(self) -> bool:
        """The prompt's own tokens are to be reported, so that it is computed in full."""
        return self.request.prompt_logprobs is not None

    @property
    def scoring(self) -> bool:
        """The next tokens to compute are the prompt's, and are to be measured."""
        return self.scored and not self.generating

    @property
    def generating(self) -> bool:
        """The prompt, with the tokens forced right after it, is in the KV."""
        return self.position >= self._prefill

    def score(self, position: int, every: list[Logits]) -> None:
        """Measure the prompt's tokens after ``position`` by the logits after those from there on."""
        wanted = self.request.prompt_logprobs or 0
        for token, logits in zip(self.prompt[position + 1 :], every, strict=False):
            normaliser = sampling.log_normaliser(logits)
            alternatives = self._alternatives(logits, sampling.most_probable(logits, wanted), normaliser)
            self._scored.append(TokenOut(token, "", float(logits[token]) - normaliser, False, alternatives))

    def accept(self, logits: Logits) -> None:
        """Choose the next token from the logits after everything fed so far, and advance the grammar.

        Raises:
            UnsatisfiableSchemaError: the grammar cannot go on.
        """
        request = self.request
        if request.max_tokens == 0:
            self._finish("length")
            return
        permitted = self.constraint.permitted() if self.constraint else None
        if request.branches and permitted is not None:
            self._report_branch(logits, permitted)
        chosen = logits if self._counts is None else sampling.adjusted(logits, request.penalties, self._counts)
        if request.temperature <= 0:
            token = sampling.greedy(chosen, permitted)
        else:
            token = sampling.draw(chosen, permitted, request.temperature, request.top_p, self._generator)
        if token in self.vocabulary.ends and not request.ignore_end:
            self._finish("stop")
            return
        logprob: float | None = None
        alternatives: tuple[Alternative, ...] = ()
        if request.logprobs is not None:
            normaliser = sampling.log_normaliser(logits)
            logprob = float(logits[token]) - normaliser
            alternatives = self._alternatives(logits, sampling.most_probable(logits, request.logprobs), normaliser)
        self.pending = [token]
        self._record(token, logprob, alternatives, forced=False)
        if self.constraint and self.reason != "stop":
            self.constraint.accept(token)
            self._record_forced(self.constraint.forced())

    def _record_forced(self, tokens: list[int]) -> None:
        for token in tokens:
            if self.reason is not None:
                return
            if self.generating:
                self.pending.append(token)
            self.forced_tokens += 1
            self._record(token, None, (), forced=True)
        if self.constraint and self.constraint.complete and self.reason in (None, "length"):
            self.reason = None
            self._finish("stop")

    def _record(
        self, token: int, logprob: float | None, alternatives: tuple[Alternative, ...], *, forced: bool
    ) -> None:
        start = len(self._transcript.text)
        self.tokens.append(token)
        if self._counts is not None:
            self._counts[token] += 1
        self._transcript.push(self.vocabulary.pieces[token])
        end = len(self._transcript.text)
        # After a stop the text is shorter than it was: the token keeps what is left of its own text.
        text = self._transcript.text[start:end]
        self._held.append(_Emitted(TokenOut(token, text, logprob, forced, alternatives), start, end))
        if self._transcript.stopped:
            self._finish("stop")
        elif len(self.tokens) >= self.request.max_tokens:
            self._finish("length")

    def _finish(self, reason: Reason) -> None:
        self.reason = reason
        self.pending = []

    def _alternatives(self, logits: Logits, tokens: list[int], normaliser: float) -> tuple[Alternative, ...]:
        pieces = self.vocabulary.pieces
        return tuple(
            Alternative(pieces[token].decode("utf-8", "replace"), token, float(logits[token]) - normaliser)
            for token in tokens
        )

    def _report_branch(self, logits: Logits, permitted: sampling.Permitted) -> None:
        candidates = np.flatnonzero(permitted)
        if 2 <= candidates.size <= MOST_BRANCH_OPTIONS:
            options = self._alternatives(logits, [int(token) for token in candidates], sampling.log_normaliser(logits))
            self.branches.append(Branch(len(self._transcript.text), options))

    def delta(self) -> Delta | None:
        """The text that may be shown since the last call, with the tokens whose text is all shown."""
        if self.reason is not None:
            self._transcript.finish()
        until = self._transcript.releasable
        ready: list[TokenOut] = []
        while self._held and (self._held[0].end <= until or self.reason is not None):
            emitted = self._held.pop(0)
            if self._transcript.stopped and emitted.start >= until:
                continue
            text = self._transcript.text[emitted.start : min(emitted.end, until)]
            ready.append(
                TokenOut(
                    emitted.token.token, text, emitted.token.logprob, emitted.token.forced, emitted.token.alternatives
                )
            )
        text = self._transcript.text[self._shown : until]
        self._shown = until
        prompt = self._shown_prompt()
        return Delta(self.request.id, text, tuple(ready), prompt) if text or ready or prompt else None

    def _shown_prompt(self) -> tuple[TokenOut, ...]:
        """The prompt's tokens with their texts, once all of them are measured."""
        if len(self._scored) < len(self.prompt):
            return ()
        scored, self._scored = self._scored, []
        transcript = Transcript()
        shown: list[TokenOut] = []
        for token in scored:
            start = len(transcript.text)
            transcript.push(self.vocabulary.pieces[token.token], last=len(shown) == len(scored) - 1)
            shown.append(msgspec.structs.replace(token, text=transcript.text[start:]))
        return tuple(shown)

    def finished(self, fingerprint: str, now: float) -> GenerationResult:
        """The end of the generation, after the last :meth:`delta`."""
        spent = self.spent
        admitted = spent.admitted if spent.admitted is not None else now
        first = spent.first_token if spent.first_token is not None else now
        return GenerationResult(
            id=self.request.id,
            reason=self.reason or "cancelled",
            text=self._transcript.text[: self._transcript.releasable],
            usage=GenerationUsage(
                prompt_tokens=self.prompt_tokens,
                cached_prompt_tokens=min(spent.cached_tokens, self.prompt_tokens),
                completion_tokens=len(self.tokens),
                forced_tokens=self.forced_tokens,
                steps=spent.steps,
                queue_seconds=admitted - spent.arrived,
                prefill_seconds=first - admitted,
                decode_seconds=now - first,
                engine_seconds=spent.engine_seconds,
            ),
            fingerprint=fingerprint,
            token_ids=tuple(self.tokens),
            branches=tuple(self.branches),
        )
