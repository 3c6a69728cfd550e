"""Choosing a token from logits. Pure: the same logits, mask, parameters and generator state give the same token."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from antiphon.engine.api.messages import Penalties
from antiphon.engine.execution.runtime import Logits

Permitted = NDArray[np.bool_]
"""True where a grammar permits the token; shape ``(vocabulary,)``."""


COLDEST = 1e-5
"""The least temperature that is divided by."""


def generator_for(seed: int) -> np.random.Generator:
    """A request's own generator (Philox, keyed by the seed), so that neighbors cannot shift its draws."""
    return np.random.Generator(np.random.Philox(key=seed & 0xFFFF_FFFF_FFFF_FFFF))


def greedy(logits: Logits, permitted: Permitted | None) -> int:
    """The most probable permitted token; the lowest id among equals."""
    best = int(logits.argmax())
    if permitted is None or permitted[best]:
        return best
    candidates = np.flatnonzero(permitted)
    return int(candidates[logits[candidates].argmax()])


def draw(
    logits: Logits, permitted: Permitted | None, temperature: float, top_p: float, generator: np.random.Generator
) -> int:
    """One draw from the softmax of ``logits / temperature`` over the permitted tokens.

    ``top_p`` below 1 keeps the smallest set of most probable tokens whose probabilities reach it (nucleus
    sampling, Holtzman et al. 2020, section 3). Exactly one uniform number is consumed. Below
    :data:`COLDEST` the most probable token is drawn: a quotient would leave what a float holds.
    """
    if temperature < COLDEST:
        generator.random()
        return greedy(logits, permitted)
    candidates = np.arange(logits.size) if permitted is None else np.flatnonzero(permitted)
    scaled = logits[candidates].astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    uniform = generator.random()
    if top_p < 1.0:
        order = np.argsort(-weights, kind="stable")
        candidates, weights = candidates[order], weights[order]
    cumulative = np.cumsum(weights)
    if top_p < 1.0:
        cumulative = cumulative[: int(np.searchsorted(cumulative, top_p * cumulative[-1], side="left")) + 1]
    index = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return int(candidates[min(index, cumulative.size - 1)])


def adjusted(logits: Logits, penalties: Penalties, counts: Mapping[int, int]) -> Logits:
    """The logits with bias and penalties for the tokens that were chosen so many times (OpenAI's formula)."""
    changed = logits.copy()
    for token, bias in penalties.bias:
        changed[token] += np.float32(bias)
    for token, count in counts.items():
        changed[token] -= np.float32(count * penalties.frequency + penalties.presence)
    return changed


def log_normalizer(logits: Logits) -> float:
    """``log Σ exp(logit)``: subtract it from a logit to get the token's natural log-probability."""
    largest = float(logits.max())
    return largest + float(np.log(np.exp(logits - np.float32(largest)).sum(dtype=np.float64)))


def most_probable(logits: Logits, count: int) -> list[int]:
    """The ``count`` tokens of largest logit, largest first, the lowest id among equals."""
    if count <= 0:
        return []
    count = min(count, logits.size)
    threshold = np.partition(logits, logits.size - count)[logits.size - count]
    candidates = np.flatnonzero(logits >= threshold)
    order = np.argsort(-logits[candidates], kind="stable")[:count]
    return [int(token) for token in candidates[order]]
