"""Cost: the engine measures usage, the receipt stores it, and here it is priced.

The prices are declared in ``antiphon.toml``, section ``prices``. Prompt tokens that came from a shared prefix
took no work and are not charged as tokens; what little time they took is in the engine seconds.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from antiphon.catalog.receipts import Receipt, UsageReceipt
from antiphon.core.settings_sections import PriceSettings


class CostLine(msgspec.Struct, frozen=True):
    """The spending of one application on one path. ``cost`` is in ``currency``, ``seconds`` are the engine's."""

    application: str
    path: str
    predictions: int
    generated: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    cost: float
    currency: str


def price(usage: UsageReceipt, prices: PriceSettings) -> float:
    """What this usage costs, in ``prices.currency``."""
    charged_prompt = max(0, usage.prompt_tokens - usage.cached_prompt_tokens)
    return (
        usage.engine_seconds * prices.engine_second
        + charged_prompt * prices.prompt_token
        + usage.completion_tokens * prices.completion_token
    )


def summarise(receipts: Iterable[Receipt], prices: PriceSettings) -> tuple[CostLine, ...]:
    """Spending per application and path, dearest first."""
    lines: dict[tuple[str, str], CostLine] = {}
    for receipt in receipts:
        key = (receipt.application, receipt.path)
        so_far = lines.get(key) or CostLine(*key, 0, 0, 0, 0, 0.0, 0.0, prices.currency)
        lines[key] = CostLine(
            application=receipt.application,
            path=receipt.path,
            predictions=so_far.predictions + 1,
            generated=so_far.generated + (receipt.cache.origin == "generated"),
            prompt_tokens=so_far.prompt_tokens + receipt.usage.prompt_tokens,
            completion_tokens=so_far.completion_tokens + receipt.usage.completion_tokens,
            seconds=so_far.seconds + receipt.usage.engine_seconds,
            cost=so_far.cost + price(receipt.usage, prices),
            currency=prices.currency,
        )
    return tuple(sorted(lines.values(), key=lambda line: (-line.cost, line.application, line.path)))
