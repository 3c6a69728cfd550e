"""Amounts that requests are charged at most, and answers exactly, in whole micro-units of a budget. Pure.

The ledger rounds the sum of an hour, resource, engine and model once. By how much an answer raises it is therefore its
price, rounded up, and one micro-unit for each priced resource at most: this is what an amount says, so that amounts are
never less than what the ledger will have.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from antiphon.catalog.ledger import Resource
from antiphon.operations.cost.metering import MICROSECONDS
from antiphon.operations.cost.price_book import PriceBook


def amount_of(quantities: Iterable[tuple[Resource, int]], model: str, book: PriceBook, hour: datetime) -> int:
    """The most that these quantities raise the ledger by; savings are no charge."""
    whole = 0
    for resource, quantity in quantities:
        price = None if resource.startswith("saved_") else book.at(resource, model, hour)
        if price is not None and quantity > 0 and (numerator := price.micros.numerator):
            whole += 1 - (-quantity * numerator // price.micros.denominator)
    return whole


def worst_case(
    prompt_tokens: int, completion_tokens: int, model: str, book: PriceBook, hour: datetime, token_seconds: float,
    gpus: int = 0,
) -> int:  # fmt: skip
    """The most that a generation of so many tokens is charged.

    Args:
        token_seconds: engine time that a token takes at most. gpus: that the engine has.
    """
    engine = round((prompt_tokens + completion_tokens) * token_seconds * MICROSECONDS)
    # Which of the prompt's tokens are cached is known afterwards: the dearer price counts, and both are rounded.
    prompt, cached = (amount_of(((name, prompt_tokens),), model, book, hour) for name in _PROMPTS)
    whole = max(prompt, cached) + 2 if prompt and cached else max(prompt, cached)
    times: tuple[tuple[Resource, int], ...] = ("engine", engine), ("gpu", engine * gpus)
    return whole + amount_of((*times, ("completion_token", completion_tokens)), model, book, hour)


_PROMPTS: tuple[Resource, ...] = ("prompt_token", "cached_prompt_token")
