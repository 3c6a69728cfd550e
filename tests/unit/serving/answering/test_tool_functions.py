"""URLs that tools may call."""

from __future__ import annotations

import pytest

from antiphon.serving.answering.tool_functions import is_below


@pytest.mark.parametrize(
    ("url", "below"),
    [
        ("https://shop/api", True),
        ("https://shop/api/stock", True),
        ("https://shop/api-internal", False),
        ("https://shop/api/../admin", False),
        ("https://shop/api/%2e%2e/admin", False),
        ("https://shop/", False),
        ("https://shop:8443/api", False),
        ("http://shop/api", False),
        ("https://shop.evil/api", False),
        ("https://shop@evil/api", False),
    ],
)
def test_a_url_is_below_an_allowed_one_of_the_same_server(url: str, below: bool) -> None:
    assert is_below(url, "https://shop/api") is below


def test_all_of_a_server_may_be_allowed() -> None:
    assert is_below("https://shop/anything", "https://shop")
    assert is_below("https://shop/anything", "https://shop/")
