"""Addresses of engines: what is one, and what a refusal repeats of it."""

from __future__ import annotations

import pytest

from antiphon.core.errors import InvalidInputError
from antiphon.core.tls import ClientTls
from antiphon.engine.api.address import NetworkAddress, is_engine_url, parse_host_port, parse_url


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("antiphon+tls://gpu-1.example:8790", ("gpu-1.example", 8790)),
        ("ANTIPHON+TLS://10.0.0.7:1/", ("10.0.0.7", 1)),
        ("antiphon+tls://[fd00::7]:8790", ("fd00::7", 8790)),
    ],
)
def test_a_url_of_an_engine(url: str, found: tuple[str, int]) -> None:
    assert is_engine_url(url)
    assert parse_url(url, "here") == found
    assert parse_url(str(NetworkAddress(*found, ClientTls())), "here") == found


@pytest.mark.parametrize(
    "url",
    [
        "antiphon+tls://gpu-1.example",
        "antiphon+tls://:8790",
        "antiphon+tls://user:planted@gpu-1.example:8790",
        "antiphon+tls://gpu-1.example:planted",
        "antiphon+tls://gpu-1.example:8790/v1",
        "antiphon+tls://gpu-1.example:8790?key=planted",
    ],
)
def test_anything_else_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_url(url, "here")
    said = f"{refused.value} {refused.value.next_step}"
    assert "planted" not in said
    assert "gpu-1" not in said


def test_other_urls_are_not_ours() -> None:
    assert not is_engine_url("https://gpu-1.example:8790")
    assert not is_engine_url("gpu-1.example:8790")


@pytest.mark.parametrize("text", ["8790", ":8790", "host:", "host:http", "host:70000", "http://host:1", "me@host:1"])
def test_an_address_to_listen_on_has_a_host_and_a_port(text: str) -> None:
    with pytest.raises(InvalidInputError, match="HOST:PORT"):
        parse_host_port(text, "--listen")


def test_addresses_to_listen_on() -> None:
    assert parse_host_port("0.0.0.0:0", "--listen") == ("0.0.0.0", 0)
    assert parse_host_port("[::]:8790", "--listen") == ("::", 8790)
