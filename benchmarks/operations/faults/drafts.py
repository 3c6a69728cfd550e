"""Bad releases: edits of sound definitions that make them. The project of a case has each as a draft, by its name."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class BadDraft(msgspec.Struct, frozen=True):
    """An edit of an application's definitions: the text that stands there, and the one in its place."""

    application: str
    sound: str
    spoiled: str


_DESK_TEMPLATE = '"At the {{ entity.shop }} orders take"'
_TRIAGE_TEMPLATE = 'template="The customer wrote'
_DESK_TOKENS, _TRIAGE_TOKENS = "decoding=Decoding(max_tokens=80)", "decoding=Decoding(max_tokens=40)"

DRAFTS: Mapping[str, BadDraft] = {
    # A template that fails, and one that computes for long.
    "desk": BadDraft("desk", _DESK_TEMPLATE, f'"{{{{ [][3].x.y }}}}{_DESK_TEMPLATE[1:]}'),
    "triage": BadDraft(
        "triage",
        _TRIAGE_TEMPLATE,
        'template="{% for a in range(1200) %}{% for b in range(1000) %}{% endfor %}{% endfor %}The customer wrote',
    ),
    # An output that has no room within its most tokens.
    "unreachable-schema": BadDraft("desk", '"maxLength": 140', '"minLength": 4000'),
    # Most tokens that were meant for another application.
    "few-tokens": BadDraft("triage", _TRIAGE_TOKENS, "decoding=Decoding(max_tokens=4)"),
    # A stop text that stands in each answer.
    "stop-text": BadDraft("desk", _DESK_TOKENS, "decoding=Decoding(max_tokens=80, stop=('\":',))"),
    # A prompt that is longer than any context.
    "endless-prompt": BadDraft(
        "triage", _TRIAGE_TEMPLATE, "template=\"{{ 'Remember the house rules. ' * 9000 }}The customer wrote"
    ),
    # A demand on the age of features that none of them meets.
    "impatient-contract": BadDraft(
        "desk", 'Freshness("2d", when_stale="flag")', 'Freshness("1s", when_stale="reject")'
    ),
    # A guard that was written for letters, and that no notice passes.
    "strict-guard": BadDraft(
        "desk",
        "    guards=[\n        FigureGuard(",
        "    guards=[\n        __import__('antiphon').ContentGuard("
        "required=('with kind regards',), action='refuse', retries=0, name='regards'),\n        FigureGuard(",
    ),
    # A second key that none of its callers sends.
    "second-key": BadDraft(
        "triage", "    entities=[customer],", '    entities=[customer, Entity("product", keys=["product"])],'
    ),
}
