"""Facts by which a model behind a server is told from another one under the same name.

A server may serve other weights under a name from one moment to the next and need not say so. It is judged by the
strongest that it gives: log-probabilities of the first tokens after a few fixed prompts (of an embedding model, the
vector of a fixed text); without them its ``system_fingerprint``; beside either, what its list says of the model.

Not used: ``created`` of the list, where many servers (vLLM, llama.cpp, SGLang) write the present time.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, sqrt
from typing import Any, Literal

import msgspec

from antiphon.core.ids import content_hash

PROMPTS = (
    "The capital of France is",
    "def add(a, b):\n    return",
    "Once upon a time there was a",
    "Two plus two equals",
    "Sehr geehrte Damen und",
    "The order was late because the",
)
"""Short ones of unlike kinds: about 40 tokens in all, and one generated for each."""

TEXT = "The order was late because the bridge was closed."
"""Embedded by an embedding model, for its vector."""

ALTERNATIVES = 5
"""Tokens whose log-probability is asked for after each prompt."""

TOLERANCE = 0.1
"""Mean difference of log-probabilities, in nats, up to which they are the same model's; docs/adr/0148 has what servers
make of the same weights beside other requests."""

SIMILARITY = 0.999
"""Cosine of two vectors of one text from which on they are the same model's."""

_LEAST = -20.0
"""Log-probabilities below are equal to it: servers write -9999, or the rounding of nothing."""

_LISTED = ("owned_by", "root", "parent", "max_model_len")
_LISTED_META = ("n_params", "n_vocab", "n_embd", "n_ctx_train", "size")
"""Fields under ``meta`` by which llama.cpp's server describes the weights."""

Evidence = Literal["log-probabilities", "vector", "system fingerprint", "name only"]


class ModelObservation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Facts that a server shows of one model.

    Attributes:
        listed: what its list says of the model, by field.
        system_fingerprint: of its latest answer; a server may have several at once, behind one URL.
        first_tokens: log-probabilities of the likeliest first tokens, by prompt and token.
        vector: of :data:`TEXT`, of an embedding model.
    """

    listed: dict[str, str] = {}
    system_fingerprint: str | None = None
    first_tokens: dict[str, dict[str, float]] = {}
    vector: tuple[float, ...] = ()

    @property
    def evidence(self) -> Evidence:
        """The strongest of them."""
        if self.first_tokens:
            return "log-probabilities"
        if self.vector:
            return "vector"
        return "name only" if self.system_fingerprint is None else "system fingerprint"

    @property
    def version(self) -> str:
        """A short name for the model that shows this."""
        decides = self if self.evidence == "system fingerprint" else _without_system(self)
        return str(content_hash(msgspec.to_builtins(decides)))[:12]


def difference(before: ModelObservation, now: ModelObservation) -> str | None:
    """The fact that shows another model than before, in words; ``None`` if none does."""
    for name in sorted(before.listed.keys() & now.listed.keys()):
        if before.listed[name] != now.listed[name]:
            return f"its {name} is {now.listed[name]}, it was {before.listed[name]}"
    prompts = before.first_tokens.keys() & now.first_tokens.keys()
    if prompts:
        nats = apart(before.first_tokens, now.first_tokens)
        return f"its log-probabilities are {nats:.2f} nats apart on average" if nats > TOLERANCE else None
    if before.vector and now.vector:
        cosine = _cosine(before.vector, now.vector)
        return f"its vector of the same text has a cosine of {cosine:.4f}" if cosine < SIMILARITY else None
    if before.first_tokens and not now.first_tokens:
        return "it gives no log-probabilities any more, so that nothing shows that it is the same"
    if before.system_fingerprint != now.system_fingerprint and before.system_fingerprint is not None:
        return f"its system fingerprint is {now.system_fingerprint}, it was {before.system_fingerprint}"
    return None


def joined(before: ModelObservation, now: ModelObservation) -> ModelObservation:
    """The facts of one model after it was seen again. Those that it is compared by stay as they were seen first: many
    small steps do not lead far away."""
    return ModelObservation(
        now.listed | before.listed,
        before.system_fingerprint or now.system_fingerprint,
        before.first_tokens if before.first_tokens.keys() & now.first_tokens.keys() else now.first_tokens,
        before.vector or now.vector,
    )


def listed_facts(entry: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a model in a server's list that do not change while the model is the same."""
    meta = entry.get("meta")
    named = {name: entry.get(name) for name in _LISTED}
    named |= {name: meta.get(name) for name in _LISTED_META} if isinstance(meta, dict) else {}
    return {name: str(value)[:200] for name, value in named.items() if isinstance(value, str | int) and value != ""}


def token_logprobs(pairs: Mapping[str, float | None]) -> dict[str, float]:
    """Log-probabilities by token, as they are kept."""
    known = {token: value for token, value in pairs.items() if value is not None and value == value}
    return {token: round(max(value, _LEAST), 4) for token, value in known.items()}


def unit_vector(numbers: tuple[float, ...]) -> tuple[float, ...]:
    """A vector of length 1 as it is kept; none of what is no vector."""
    length = sqrt(sum(number * number for number in numbers))
    return tuple(round(number / length, 5) for number in numbers) if length and isfinite(length) else ()


def apart(before: Mapping[str, Mapping[str, float]], now: Mapping[str, Mapping[str, float]]) -> float:
    """Mean difference over the tokens that were likeliest before; one that is not listed any more is taken for as
    likely as the least likely listed one, which it can be at most."""
    found = [
        abs(value - now[prompt].get(token, min(value, min(now[prompt].values()))))
        for prompt, tokens in before.items()
        if now.get(prompt)
        for token, value in tokens.items()
    ]
    return sum(found) / max(len(found), 1)


def _cosine(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) if len(one) == len(other) else 0.0


def _without_system(observation: ModelObservation) -> ModelObservation:
    return msgspec.structs.replace(observation, system_fingerprint=None)
