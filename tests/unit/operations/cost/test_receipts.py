from __future__ import annotations

import pytest

from antiphon.catalog.serving.receipt import UsageReceipt
from antiphon.core.settings_costs import PriceSettings
from antiphon.operations.cost.receipts import price

PRICES = PriceSettings("EUR", engine_second=0.5, prompt_token=0.01, completion_token=0.1)


def test_shared_prompt_tokens_are_not_charged_again() -> None:
    usage = UsageReceipt(prompt_tokens=10, cached_prompt_tokens=4, completion_tokens=2, engine_seconds=3.0)
    assert price(usage, PRICES) == pytest.approx(3 * 0.5 + 6 * 0.01 + 2 * 0.1)
    assert price(UsageReceipt(), PRICES) == 0.0


def test_more_cached_than_prompted_never_earns_money() -> None:
    assert price(UsageReceipt(prompt_tokens=1, cached_prompt_tokens=9), PRICES) == 0.0


def test_gpus_are_priced_beside_the_engine() -> None:
    prices = PriceSettings("EUR", engine_second=0.5, gpu_second=0.25)
    assert price(UsageReceipt(engine_seconds=3.0, gpu_seconds=12.0), prices) == pytest.approx(1.5 + 3.0)
