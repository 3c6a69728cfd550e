from __future__ import annotations

import msgspec
import pytest

from antiphon.catalog.receipts import UsageReceipt
from antiphon.core.clock import SystemClock
from antiphon.core.scope import Scope
from antiphon.core.settings_sections import PriceSettings
from antiphon.governance.identity.principal import Principal
from antiphon.operations.cost import price, summarise
from antiphon.serving.request import AnswerRequest
from antiphon.testing.fakes import make_receipt

PRICES = PriceSettings("EUR", engine_second=0.5, prompt_token=0.01, completion_token=0.1)


def receipt(path="online", origin="generated", application="desk"):
    asker = Principal("p", "default", "service")
    request = AnswerRequest(scope=Scope(), principal=asker, application=application, path=path)
    return make_receipt(request, "text", SystemClock(), origin)[0]


def test_shared_prompt_tokens_are_not_charged_again() -> None:
    usage = UsageReceipt(prompt_tokens=10, cached_prompt_tokens=4, completion_tokens=2, engine_seconds=3.0)
    assert price(usage, PRICES) == pytest.approx(3 * 0.5 + 6 * 0.01 + 2 * 0.1)
    assert price(UsageReceipt(), PRICES) == 0.0


def test_more_cached_than_prompted_never_earns_money() -> None:
    assert price(UsageReceipt(prompt_tokens=1, cached_prompt_tokens=9), PRICES) == 0.0


def test_summary_adds_up_per_application_and_path() -> None:
    receipts = [receipt(), receipt(), receipt("batch"), receipt(origin="stored")]
    lines = summarise(receipts, PRICES)
    assert [(line.application, line.path, line.predictions, line.generated) for line in lines] == [
        ("desk", "online", 3, 2),
        ("desk", "batch", 1, 1),
    ]
    assert sum(line.cost for line in lines) == pytest.approx(sum(price(one.usage, PRICES) for one in receipts))
    assert all(line.currency == "EUR" for line in lines)
    assert summarise([], PRICES) == ()
    assert msgspec.json.encode(lines)
