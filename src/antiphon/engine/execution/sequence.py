"""One generation in flight: its pending tokens, the chosen ones, and the text that may be shown.

Invariant: everything here depends on the request and its own logits alone, never on other sequences or on time.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from msgspec.structs import replace

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
from antiphon.engine.execution.prefix_cache import PrefixHashes
from antiphon.engine.execution.runtime import Logits, TokenVocabulary


class Transcript:
    """The growing text of one generation."""

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stops)
        self.text = ""
        self.releasable = 0
        """Number of characters of ``text`` that may be shown."""
        self.stopped = False
        """A stop sequence was completed; ``text`` ends before it."""

    def push(self, piece: bytes, *, last: bool = False) -> None:
        """Append a token's bytes; ``last`` also gives up bytes that wait for the rest of a character."""
        if self.stopped:
            return
        self.text += self._decoder.decode(piece, last)
        cut = min((at for stop in self._stops if (at := self.text.find(stop, self.releasable)) >= 0), default=-1)
        if cut >= 0:
            self.text = self.text[:cut]
            self.stopped = True
            self.releasable = cut
        else:
            self.releasable = len(self.text) - (0 if last else self._held())

    def finish(self) -> None:
        """No more bytes will come."""
        self.push(b"", last=True)

    def _held(self) -> int:
        """Characters at the end of the text that begin a stop sequence."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self.text) - self.releasable), longest, -1):
                if self.text.endswith(stop[:length]):
                    longest = length
                    break
        return longest


MOST_BRANCH_OPTIONS = 32

Reason = Literal["stop", "length", "cancelled"]


@dataclass(slots=True)
class SequenceStats:
    """Times and costs of one generation so far; see :class:`~antiphon.engine.api.messages.GenerationUsage`.

    ``accepted`` counts the tokens that were chosen from logits; ``last_token`` is the moment of the last one.
    """

    arrived: float
    admitted: float | None = None
    first_token: float | None = None
    last_token: float = 0.0
    accepted: int = 0
    engine_seconds: float = 0.0
    steps: int = 0
    cached_tokens: int = 0


class Sequence:
    """One generation; mutable, owned by the step loop's thread.

    ``pending`` are the tokens that wait to enter the KV cache: the prompt with what the grammar forces right after it,
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
        vocabulary: TokenVocabulary,
        prefix_hashes: PrefixHashes,
        arrived: float,
    ) -> None:
        self.ticket = ticket
        self.request = request
        self.prompt = prompt
        self.constraint = constraint
        self.vocabulary = vocabulary
        self.prefix_hashes = prefix_hashes
        self.stats = SequenceStats(arrived)
        self.pending = prompt + forced
        self.position = 0
        self.slot: int | None = None
        self.swapped_out = False
        self.cache_prefix_at: tuple[int, ...] = ()
        self.tokens: list[int] = []
        self.forced_tokens = 0
        self.branches: list[Branch] = []
        self.reason: Reason | None = None
        self._prefill = len(self.pending)
        self._transcript = Transcript(request.stop)
        self._generator = sampling.generator_for(request.seed)
        self._shown = 0
        self._unshown: list[tuple[int, int, TokenOut]] = []
        """Tokens with the places where their texts begin and end."""
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
        """The prompt, with the tokens forced right after it, is in the KV cache."""
        return self.position >= self._prefill

    def score(self, position: int, every: list[Logits]) -> None:
        """Measure the prompt's tokens after ``position`` by the logits after those from there on."""
        count = self.request.prompt_logprobs or 0
        for token, logits in zip(self.prompt[position + 1 :], every, strict=False):
            normalizer = sampling.log_normalizer(logits)
            alternatives = self._alternatives(logits, sampling.most_probable(logits, count), normalizer)
            self._scored.append(TokenOut(token, "", float(logits[token]) - normalizer, False, alternatives))

    def accept(self, logits: Logits) -> None:
        """Choose the next token from the logits after everything fed so far, and advance the grammar; raises
        ``UnsatisfiableSchemaError`` when that cannot go on."""
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
            normalizer = sampling.log_normalizer(logits)
            logprob = float(logits[token]) - normalizer
            alternatives = self._alternatives(logits, sampling.most_probable(logits, request.logprobs), normalizer)
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
        self._unshown.append((start, end, TokenOut(token, text, logprob, forced, alternatives)))
        if self._transcript.stopped:
            self._finish("stop")
        elif len(self.tokens) >= self.request.max_tokens:
            self._finish("length")

    def _finish(self, reason: Reason) -> None:
        self.reason = reason
        self.pending = []

    def _alternatives(self, logits: Logits, tokens: list[int], normalizer: float) -> tuple[Alternative, ...]:
        pieces = self.vocabulary.pieces
        return tuple(
            Alternative(pieces[token].decode("utf-8", "replace"), token, float(logits[token]) - normalizer)
            for token in tokens
        )

    def _report_branch(self, logits: Logits, permitted: sampling.Permitted) -> None:
        candidates = np.flatnonzero(permitted)
        if 2 <= candidates.size <= MOST_BRANCH_OPTIONS:
            options = self._alternatives(logits, [int(token) for token in candidates], sampling.log_normalizer(logits))
            self.branches.append(Branch(len(self._transcript.text), options))

    def delta(self) -> Delta | None:
        """The text that may be shown since the last call, with the tokens whose text is all shown."""
        if self.reason is not None:
            self._transcript.finish()
        until = self._transcript.releasable
        ready: list[TokenOut] = []
        while self._unshown and (self._unshown[0][1] <= until or self.reason is not None):
            start, end, token = self._unshown.pop(0)
            if not self._transcript.stopped or start < until:
                ready.append(replace(token, text=self._transcript.text[start : min(end, until)]))
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
            shown.append(replace(token, text=transcript.text[start:]))
        return tuple(shown)

    def result(self, fingerprint: str, now: float) -> GenerationResult:
        """The end of the generation, after the last :meth:`delta`."""
        stats = self.stats
        admitted = stats.admitted if stats.admitted is not None else now
        first = stats.first_token if stats.first_token is not None else now
        return GenerationResult(
            id=self.request.id,
            reason=self.reason or "cancelled",
            text=self._transcript.text[: self._transcript.releasable],
            usage=GenerationUsage(
                prompt_tokens=self.prompt_tokens,
                cached_prompt_tokens=min(stats.cached_tokens, self.prompt_tokens),
                completion_tokens=len(self.tokens),
                forced_tokens=self.forced_tokens,
                steps=stats.steps,
                queue_seconds=admitted - stats.arrived,
                prefill_seconds=first - admitted,
                decode_seconds=now - first,
                engine_seconds=stats.engine_seconds,
            ),
            fingerprint=fingerprint,
            token_ids=tuple(self.tokens),
            branches=tuple(self.branches),
        )
