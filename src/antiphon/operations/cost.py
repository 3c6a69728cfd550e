"""Prices of usage: the engine measures it, the receipt stores it.

The prices are declared in ``antiphon.toml``, section ``prices``. Prompt tokens that came from a shared prefix
took no work and are not charged as tokens; what little time they took is in the engine seconds.
"""

from __future__ import annotations

from antiphon.catalog.serving.receipt import UsageReceipt
from antiphon.core.settings_sections import PriceSettings


def price(usage: UsageReceipt, prices: PriceSettings) -> float:
    """Prices this usage, in ``prices.currency``."""
    charged_prompt = max(0, usage.prompt_tokens - usage.cached_prompt_tokens)
    return (
        usage.engine_seconds * prices.engine_second
        + charged_prompt * prices.prompt_token
        + usage.completion_tokens * prices.completion_token
    )
