import sys
from typing import Any

import msgspec
import pytest

from antiphon.core.errors import InvalidDefinitionsError
from antiphon.definitions.application import Application, ApplicationSpec
from antiphon.definitions.application_check import application_mistakes, application_spec
from antiphon.definitions.entity import Entity
from antiphon.definitions.guards import (
    ContentGuard,
    FigureGuard,
    FunctionGuard,
    GroundedGuard,
    Guard,
    JudgeGuard,
    PatternGuard,
    PIIGuard,
    SchemaGuard,
)
from antiphon.definitions.prompt import Prompt

OUTPUT = {
    "type": "object",
    "properties": {"label": {"enum": ["a", "b"]}, "text": {"type": "string"}, "tags": {"type": "array"}},
}


def application(*guards: Any, output: dict[str, Any] | None = None, **fields: Any) -> Application:
    return Application(
        "replies",
        purpose="answer",
        entities=[Entity("shop", keys=["shop"])],
        features=[],
        model="tiny",
        prompt=Prompt(template="Say {{ question }}"),
        guards=guards,
        output=output,
        **fields,
    )


def polite(text: str, request: object) -> bool:
    return bool(text)


GOOD = (
    FigureGuard(),
    ContentGuard(forbidden=["no refund"]),  # type: ignore[arg-type]
    PatternGuard(pattern=r"INT-\d+"),
    SchemaGuard(schema={"type": "object"}),
    PIIGuard(kinds=["email"]),  # type: ignore[arg-type]
    GroundedGuard(),
    FunctionGuard(function=polite),  # type: ignore[arg-type]
    JudgeGuard(rubric="Kind?", engine="standby/judge"),
)


def test_every_kind_is_kept_in_the_spec() -> None:
    spec = application_spec(application(*GOOD))
    again = msgspec.json.decode(msgspec.json.encode(spec), type=ApplicationSpec)
    assert again == spec
    assert [guard.label for guard in again.guards] == [
        "figures", "content", "pattern", "schema", "pii", "grounded", "function", "judge:v1",
    ]  # fmt: skip
    assert isinstance(again.guards[6], FunctionGuard)
    assert again.guards[6].function == f"{__name__}:polite"
    assert again.guards[1] == ContentGuard(forbidden=("no refund",))


@pytest.mark.parametrize(
    ("guard", "said"),
    [
        (Guard(), "is not a guard"),
        ("pii", "is not a guard"),
        (FigureGuard("text"), "the output has no property 'text'"),
        (PIIGuard(retries=11), "retries must be from 0 to 10"),
        (PIIGuard(action="template"), "needs a fallback"),
        (PIIGuard(action="flag", fallback="x"), "uses no fallback"),
        (PIIGuard(fallback="{{ nothing }}"), "reads 'nothing'"),
        (PIIGuard(kinds=("name",)), "no kind of personal data"),
        (PIIGuard(kinds=()), "kinds is empty"),
        (PIIGuard(kinds="email"), "guard"),  # type: ignore[arg-type]
        (ContentGuard(), "neither forbidden nor required"),
        (ContentGuard(forbidden=(" ",)), "a phrase is empty"),
        (PatternGuard(pattern="("), "pattern: missing"),
        (PatternGuard(pattern="a*"), "matches the empty text"),
        (SchemaGuard(), "schema is empty"),
        (SchemaGuard(schema={"type": "objekt"}), "no JSON schema"),
        (GroundedGuard(share=2), "share is from 0 to 1"),
        (FunctionGuard(function="polite"), "must be 'module:function'"),
        (FunctionGuard(function="antiphon_project_definitions:polite"), "a module of its own"),
        (FunctionGuard(function="rules:polite", timeout=60), "timeout"),
        (JudgeGuard(), "a rubric and its version"),
        (JudgeGuard(rubric="Kind?", engine="A B"), "is not ENGINE"),
    ],
)
def test_mistakes_of_a_guard(guard: Any, said: str) -> None:
    found = list(application_mistakes(application(guard)))
    assert any(said in text for text in found), found


@pytest.mark.parametrize(
    ("guard", "said"),
    [
        (FigureGuard("tags"), "is not of type string"),
        (PIIGuard(fallback="none"), "a template stands in for a property"),
        (PIIGuard("tags", fallback="none"), "is not of type string"),
    ],
)
def test_mistakes_of_a_guard_of_a_structured_output(guard: Any, said: str) -> None:
    assert any(said in text for text in application_mistakes(application(guard, output=OUTPUT)))


def test_a_guard_of_a_property_that_is_no_text_is_none() -> None:
    assert list(application_mistakes(application(PIIGuard("tags"), output=OUTPUT))) == []


def test_two_guards_have_two_names() -> None:
    two = (ContentGuard(forbidden=("a",)), ContentGuard(forbidden=("b",)))
    assert any("two are named 'content'" in text for text in application_mistakes(application(*two)))
    named = (two[0], ContentGuard(forbidden=("b",), name="b"))
    assert list(application_mistakes(application(*named))) == []


def test_the_locale_is_one() -> None:
    assert list(application_mistakes(application(locale="fr_CA"))) == []
    for wrong in ("klingon", "", 3):
        assert any("is no locale" in text for text in application_mistakes(application(locale=wrong)))


def test_words_of_a_locale_need_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(application_mistakes(application(FigureGuard(), locale="de"))) == []
    monkeypatch.setitem(sys.modules, "icu4py.messageformat", None)
    assert any("antiphon[locales]" in text for text in application_mistakes(application(FigureGuard(), locale="de")))
    assert list(application_mistakes(application(PIIGuard(), locale="de"))) == []


def test_mistakes_come_with_their_line() -> None:
    with pytest.raises(InvalidDefinitionsError) as raised:
        application_spec(application(ContentGuard()))
    assert "test_guards_check.py:" in str(raised.value)
