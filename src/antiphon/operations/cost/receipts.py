"""Prices of one answer's usage, which the receipt stores, by the settings: for a look at one answer or an estimate.

The prices are declared in ``antiphon.toml``, section ``prices``; those that were recorded beside them are the ledger's
(``price_book.py``). Prompt tokens that came from a shared prefix took no
work; they have a price of their own, which is nothing by default. What little time they took is in the engine seconds.
"""

from __future__ import annotations

from antiphon.catalog.serving.receipt import UsageReceipt
from antiphon.core.settings_costs import PriceSettings


def price(usage: UsageReceipt, prices: PriceSettings, model: str = "") -> float:
    """Prices this usage, in ``prices.currency``; tokens of a ``model`` that has prices of its own by these."""
    tokens = prices.models.get(model, prices)
    charged_prompt = max(0, usage.prompt_tokens - usage.cached_prompt_tokens)
    return (
        usage.engine_seconds * prices.engine_second
        + usage.gpu_seconds * prices.gpu_second
        + charged_prompt * tokens.prompt_token
        + min(usage.prompt_tokens, usage.cached_prompt_tokens) * tokens.cached_prompt_token
        + usage.completion_tokens * tokens.completion_token
    )
