"""Watches the models behind a server: which version of each is served, asked at intervals and when something changes.

Invariants:
- A model is asked again at once when its list entry changes, when an answer bears a system fingerprint that its
  version is not known to have, and when the server serves again after it failed.
- What cannot be asked, or recorded, now is later, and is no change. A model that the server does not have is forgotten.
- Asked are models that were in use, and all of a server that lists few: at most :data:`MOST`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from antiphon.core.errors import (
    AntiphonError,
    InvalidInputError,
    NotFoundError,
    PromptTooLongError,
    UnavailableError,
    UnsupportedParameterError,
)
from antiphon.core.ids import new_id
from antiphon.engine.api.messages import (
    ChatTurn,
    Delta,
    GenerationRequest,
    GenerationResult,
    Priority,
    TextEmbeddingRequest,
    TextEmbeddings,
)
from antiphon.engine.backends.remote.observation import (
    ALTERNATIVES,
    PROMPTS,
    TEXT,
    ModelObservation,
    listed_facts,
    token_logprobs,
    unit_vector,
)
from antiphon.engine.backends.remote.protocol import fingerprint

_log = logging.getLogger("antiphon.engine")

INTERVAL_SECONDS = 300.0
"""Interval at which a model is asked though nothing shows a change."""

RETRY_SECONDS = 5.0
"""Delay after a look that failed, and interval of reading whether a model that is refused has been accepted."""

VERIFY_SECONDS = 5.0
"""Wait of a request for a model that is not to be served before it was looked at."""

FEW, MOST = 4, 32
"""Models of a list that are watched before they are used, and models that are watched."""

_LOOK_SECONDS = 120.0
"""Longest look: batch may wait for long."""

_LOOKS = 4
"""Looks out of turn in one interval: some servers have many fingerprints at once, or fail and serve by turns."""

_MOST_SYSTEMS = 64
"""System fingerprints of one version that are known."""

_NUMBERS = 512
"""Of a vector, as many are compared."""

_REFUSALS = (InvalidInputError, NotFoundError, PromptTooLongError, UnsupportedParameterError)


class PinnedModel(msgspec.Struct, frozen=True):
    """A model as it was seen last, compared with what was seen before.

    Attributes:
        version: names what is served under the model's name.
        refused: in words, why it must not be served; ``None``: it may be.
    """

    version: str
    refused: str | None = None


Ask = Callable[[GenerationRequest], AsyncGenerator[Delta | GenerationResult, None]]
Embed = Callable[[TextEmbeddingRequest], Awaitable[TextEmbeddings]]
Record = Callable[[str, ModelObservation | None], Awaitable[PinnedModel | None]]
"""Compares an observation of a model with what is on record; without one it tells what is on record."""


class ModelWatch:
    """Knows the version of each model of one server.

    Args:
        ask, embed: give the server a request, when it may have one of batch.
        refresh: has the server's list read again and told to :meth:`listed`.
        record: see :data:`Record`; raises ``UnavailableError`` while the record cannot be reached.
        every: seconds between looks; 0 for none.
        strict: a model whose version is not known yet, or is refused, is not served.
    """

    def __init__(
        self,
        ask: Ask,
        embed: Embed,
        refresh: Callable[[], Awaitable[object]],
        record: Record,
        *,
        every: float = INTERVAL_SECONDS,
        strict: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._embed = embed
        self._refresh = refresh
        self._record = record
        self._every = every
        self._strict = strict and every > 0
        self._monotonic = monotonic
        self._due: dict[str, float] = {}
        """By model, when to look at it next."""
        self._embedders: set[str] = set()
        self._listed: dict[str, dict[str, str]] = {}
        self._pinned: dict[str, PinnedModel] = {}
        self._unverified: set[str] = set()
        self._unrecorded: dict[str, ModelObservation] = {}
        self._systems: dict[str, dict[str, None]] = {}
        """By model, system fingerprints that its version is known to have; the latest last."""
        self._looks: dict[str, deque[float]] = {}
        self._plain: set[str] = set()
        """Models that refused to give log-probabilities."""
        self._changed = asyncio.Event()
        self._looked = asyncio.Condition()

    def fingerprint(self, model: str, system: str | None) -> str:
        """The fingerprint of an answer of the server, by its own name of the model and its system fingerprint."""
        self.used(model)
        known = self._systems.setdefault(model, {})
        if system is not None and system not in known:
            if len(known) >= _MOST_SYSTEMS:
                known.clear()
            known[system] = None
            if model in self._pinned:
                self._look_out_of_turn(model)
        return fingerprint(model, self._version(model), system)

    def described(self, model: str) -> str:
        """The fingerprint that its answers have, as far as that is known before one."""
        return fingerprint(model, self._version(model), self._system(model))

    def used(self, model: str, *, embeds: bool = False) -> None:
        """The server has answered under this name: from now on it is watched."""
        if embeds and model not in self._embedders:
            self._embedders.add(model)
            self._due.pop(model, None)
        if self._every > 0 and model not in self._due and len(self._due) < MOST:
            self._look_now(model)

    def listed(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """The server's list, by its own names of the models."""
        facts = {model: listed_facts(entry) for model, entry in entries.items()}
        for model, entry in facts.items():
            if len(facts) <= FEW:
                self.used(model)
            if model in self._due and model in self._listed and self._listed[model] != entry:
                self._look_now(model)
        self._listed = facts

    def serves_again(self) -> None:
        """The server had failed: what it serves since may be something else."""
        self._plain.clear()
        for model in self._due:
            self._look_out_of_turn(model)

    async def require(self, model: str) -> None:
        """Raises ``UnavailableError`` for a model that must not be served: refused, not listed, or not looked at in
        time."""
        if not self._strict:
            return
        if not self._listed:
            await self._refresh()
        if model in self._listed:
            self.used(model)
        if model in self._unverified:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(VERIFY_SECONDS), self._looked:
                    await self._looked.wait_for(lambda: model not in self._unverified)
        pin = self._pinned.get(model)
        why = "it has not been looked at yet" if pin is None or model in self._unverified else pin.refused
        why = why if model in self._listed else "the server does not list it"
        if why is not None:
            raise UnavailableError(
                f"The model {model!r} is not served: {why}.",
                where="engine",
                next_step="See `antiphon models list`; `antiphon models accept` has it served.",
            )

    async def run(self) -> None:
        """Look at every model that is due, until cancelled."""
        while True:
            self._changed.clear()
            now = self._monotonic()
            for model in [model for model, at in self._due.items() if at <= now]:
                self._due[model] = now + RETRY_SECONDS
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._look(model)
                except NotFoundError:
                    self._forget(model)
                except (AntiphonError, TimeoutError) as error:
                    _log.info("The model %s could not be looked at: %s", model, error)
                except Exception:
                    _log.exception("The model %s could not be looked at.", model)
            until = min(self._due.values(), default=float("inf")) - self._monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(until, 0.0) if until != float("inf") else None):
                    await self._changed.wait()

    def _version(self, model: str) -> str | None:
        return None if (pin := self._pinned.get(model)) is None else pin.version

    def _system(self, model: str) -> str | None:
        return next(reversed(self._systems.get(model, {})), None)

    def _look_out_of_turn(self, model: str) -> None:
        """Look at a model now, unless there were enough such looks in this interval."""
        now, looks = self._monotonic(), self._looks.setdefault(model, deque(maxlen=_LOOKS))
        if self._strict or len(looks) < _LOOKS or now - looks[0] >= self._every:
            looks.append(now)
            self._look_now(model)

    def _forget(self, model: str) -> None:
        _log.info("The server does not have the model %s.", model)
        for known in (self._due, self._pinned, self._systems, self._looks, self._unrecorded):
            known.pop(model, None)
        self._unverified.discard(model)

    def _look_now(self, model: str) -> None:
        self._unrecorded.pop(model, None)
        self._due[model] = float("-inf")
        self._unverified.add(model)
        self._changed.set()

    async def _look(self, model: str) -> None:
        before, seen = self._pinned.get(model), self._unrecorded.pop(model, None)
        if seen is None and (model in self._unverified or before is None or before.refused is None):
            seen = await self.observe(model)
        try:
            pin = await self._record(model, seen)
        except UnavailableError:
            if seen is not None and self._due[model] != float("-inf"):
                self._unrecorded[model] = seen  # It costs tokens: the next try records it.
            raise
        if pin is None:
            self._due[model] = self._monotonic() + self._every
            return
        self._pinned[model] = pin
        if before is not None and before.version != pin.version and seen is not None:
            self._systems[model] = {} if seen.system_fingerprint is None else {seen.system_fingerprint: None}
        if self._due[model] != float("-inf"):  # Nothing has changed meanwhile.
            self._unverified.discard(model)
            if pin.refused is None:
                self._due[model] = self._monotonic() + self._every
        async with self._looked:
            self._looked.notify_all()

    async def observe(self, model: str) -> ModelObservation:
        """The model as it shows itself now; raises the error of a server that cannot be asked now."""
        await self._refresh()
        listed = self._listed.get(model, {})
        if model in self._embedders:
            return ModelObservation(listed, vector=await self._vector(model))
        if model not in self._plain:
            refusals: list[AntiphonError] = []
            for chat in (False, True):
                try:
                    tokens, system = await self._first_tokens(model, chat=chat)
                except _REFUSALS as error:
                    refusals.append(error)
                    continue
                if tokens:
                    return ModelObservation(listed, system, tokens)
            if len(refusals) == 2 and all(isinstance(error, NotFoundError) for error in refusals):
                raise refusals[0]
            self._plain.add(model)
            _log.info("The model %s gives no log-probabilities: it is known by less.", model)
        return ModelObservation(listed, self._system(model))

    async def _first_tokens(self, model: str, *, chat: bool) -> tuple[dict[str, dict[str, float]], str | None]:
        found: dict[str, dict[str, float]] = {}
        for prompt in PROMPTS:
            turns = (ChatTurn("user", prompt),) if chat else ()
            request = GenerationRequest(
                new_id("look"), model, "" if chat else prompt, 1, logprobs=ALTERNATIVES, priority=self._priority(model),
                messages=turns, ahead=True,
            )  # fmt: skip
            async with aclosing(self._ask(request)) as events:
                async for event in events:
                    if isinstance(event, Delta) and event.tokens:
                        pairs = {one.text: one.logprob for one in event.tokens[0].alternatives}
                        found.setdefault(prompt, token_logprobs(pairs))
        found = {prompt: tokens for prompt, tokens in found.items() if tokens}
        return found, self._system(model)

    def _priority(self, model: str) -> Priority:
        """Online where online requests wait for it."""
        return "online" if self._strict and model in self._unverified else "batch"

    async def _vector(self, model: str) -> tuple[float, ...]:
        request = TextEmbeddingRequest(new_id("look"), model, (TEXT,), priority=self._priority(model))
        embedded = await self._embed(request)
        numbers = struct.unpack(f"<{embedded.dimensions}f", embedded.vectors[: 4 * embedded.dimensions])
        return unit_vector(numbers[:_NUMBERS])
