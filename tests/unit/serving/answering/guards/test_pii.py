import pytest

from antiphon.definitions.guards import PII_KINDS
from antiphon.serving.answering.guards.pii import recognize, redacted

FOUND = [
    ("email", "Write to anna.berg+shop@mail.example.org today."),
    ("email", "Write to anna @ mail.example.org."),
    ("email", "Write to anna(at)mail.example.org."),
    ("email", "Write to ａｎｎａ@mail.example.org."),
    ("email", "Write to an\u00adna@mail.exa\u200bmple.org."),
    ("phone", "Call +49 30 1234 5678."),
    ("phone", "Call (030) 123-4567 now."),
    ("phone", "Call 555-123-4567."),
    ("iban", "Pay to DE89 3704 0044 0532 0130 00 by Friday."),
    ("iban", "Pay to de89370400440532013000."),
    ("card", "The card 4111 1111 1111 1111 was charged."),
    ("card", "The card 4111111111111111 12 times."),
    ("ip", "It came from 192.168.0.12."),
    ("ip", "It came from 2001:db8::ff00:42:8329."),
]
CLEAN = [
    "Your order of 2026-04-02 has 3 parts for 1,234.50 Euro.",
    "It arrived on 02.04.2026 at 10:30.",
    "Version 1.2.3 of item 12345 is out.",
    "The number 4111 1111 1111 1112 is no card, nor is DE00 1234.",
    "Delays average 25 minutes.",
]


@pytest.mark.parametrize(("kind", "text"), FOUND)
def test_recognizes(kind: str, text: str) -> None:
    assert kind in recognize(text, PII_KINDS).counts


@pytest.mark.parametrize("text", CLEAN[:3] + CLEAN[4:])
def test_leaves_the_rest_alone(text: str) -> None:
    assert recognize(text, PII_KINDS).counts == {}


def test_checksums_decide() -> None:
    assert recognize(CLEAN[3], ("card", "iban")).counts == {}


@pytest.mark.parametrize(("kind", "text"), FOUND)
def test_no_beginning_lets_a_character_of_it_pass(kind: str, text: str) -> None:
    whole = recognize(text, (kind,))
    assert whole.passed < len(text)
    for end in range(len(text)):
        assert recognize(text[:end], (kind,), ended=False).passed <= whole.passed


def test_what_is_allowed_passes() -> None:
    text = "Write to help@shop.example or anna@mail.example."
    assert recognize(text, ("email",), ("Help@shop.example",)).counts == {"email": 1}


def test_reasons_are_redacted() -> None:
    found = recognize("Call +49 30 1234 5678, ANNA.", PII_KINDS).texts
    assert (
        redacted("30 has no unit; 5678 has none in 15678", found)
        == "[removed] has no unit; [removed] has none in 15678"
    )
    assert redacted("30 has no unit", ()) == "30 has no unit"
