from __future__ import annotations

import json
from pathlib import Path

import pytest

from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.governance.identity.principal import Limits, Principal
from antiphon.governance.policy.cases import run_cases
from antiphon.governance.policy.diff import compare
from antiphon.governance.policy.document import PolicyDocument, default_document, read_cases, read_document
from antiphon.governance.policy.engine import Decider
from antiphon.governance.policy.explanation import explain
from antiphon.governance.policy.parts import parts_of
from antiphon.governance.policy.recent_requests import PolicyRequest
from antiphon.governance.policy.request import Resource
from antiphon.governance.policy.validation import check

ANN = Principal("ann", "default", "service")
DEFAULT = default_document()
NO_NIGHT = '@id("no-night") forbid (principal, action == Action::"answer", resource) when { context.as_of > 10 };'
CASE = """
[[case]]
name = "not at night"
principal = { role = "service|engineer" }
action = "answer"
resource = { kind = "application", name = "desk" }
context = { as_of = 11 }
keys = { origin = "JFK" }
expect = "deny"
by = ["no-night"]
"""


def more(text: str, **fields: object) -> PolicyDocument:
    return PolicyDocument(DEFAULT.cedar + text, cases=DEFAULT.cases, **fields)  # type: ignore[arg-type]


def problems(document: PolicyDocument) -> str:
    return "; ".join(check(document, tenant="default", environment="prod").problems)


def test_a_document_is_read_from_files_and_tested(tmp_path: Path) -> None:
    (tmp_path / "night.cedar").write_text(NO_NIGHT)
    (tmp_path / "people.toml").write_text('[attributes.ann]\norigin = "JFK"\n')
    (tmp_path / "tests.toml").write_text(CASE)
    document = read_document([tmp_path / "night.cedar", tmp_path / "people.toml"], [tmp_path / "tests.toml"])
    assert document.attributes == {"ann": {"origin": "JFK"}}
    assert len(document.cases) == len(DEFAULT.cases) + 2, "two roles are two cases"
    checked = check(document, tenant="default", environment="prod")
    assert (checked.sound, checked.warnings) == (True, ())
    assert document.digest not in (DEFAULT.digest, more(NO_NIGHT).digest)
    alone = read_document([tmp_path / "night.cedar"], [], defaults=False)
    assert (alone.cedar, alone.cases) == (NO_NIGHT, ())
    as_json = tmp_path / "tests.json"
    as_json.write_text(json.dumps({"case": [{"name": "a", "principal": {"role": "admin"}, "action": "read",
                                             "resource": {"kind": "a"}, "expect": "allow"}]}))  # fmt: skip
    assert read_cases(as_json)[0].name == "a"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.cedar", None, "cannot be read"),
        ("a.txt", "x", "neither a .cedar nor a .toml"),
        ("a.toml", "x = [", "not TOML"),
        ("a.toml", "[clearances]\nann = 3", "unknown field"),
        ("a.toml", "[attributes.ann]\norigin = 3", "Expected `str`"),
        ("a.cedar", "\udcff", "not UTF-8"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises((InvalidInputError, SetupError), match=said):
        read_document([path])


def test_two_cases_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tests.toml"
    path.write_text(CASE + CASE)
    with pytest.raises(InvalidInputError, match="Two cases are named 'not at night"):
        read_cases(path)


def test_a_case_that_comes_out_otherwise_says_how() -> None:
    decider = Decider(more(NO_NIGHT.replace("> 10", "> 100")))
    failed = run_cases(decider, DEFAULT.cases).failed
    assert failed == ()
    report = run_cases(Decider(PolicyDocument('@id("all") permit (principal, action, resource);')), DEFAULT.cases)
    said = {result.name: result.problem for result in report.failed}
    assert said["viewers read"] == "expected to be decided by viewer-reads, was by all"
    assert said["above the clearance [admin answer]"] == "expected deny, was allow (all)"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (PolicyDocument("permit (prin"), "unexpected"),
        (more("permit (principal, action, resource) when { principal.age > 1 };"), "age"),
        (more("forbid (principal, action, resource) when { context.as_of == 77 };"), "has no name"),
        (more(NO_NIGHT + NO_NIGHT), "two policies are named 'no-night'"),
        (more('@id("m") @mask("zero") forbid (principal, action == Action::"see", resource);'), "only a forbid masks"),
        (
            more('@id("no") forbid (principal, action == Action::"administer", resource);'),
            "no administrator could admi",
        ),
        (more('@id("no") forbid (principal in Role::"admin", action, resource);'), "no administrator could approve"),
        (PolicyDocument('@id("v") permit (principal in Role::"viewer", action, resource);'), "no administrator could"),
        (more('@id("no") forbid (principal, action == Action::"read", resource);'), "expected allow, was deny"),
    ],
)
def test_policies_that_may_not_act_say_why(document: PolicyDocument, said: str) -> None:
    assert said in problems(document)


def test_one_administrator_who_is_left_is_enough() -> None:
    rule = (
        '@id("only-root") forbid (principal, action == Action::"administer", resource) '
        'unless { principal.hasTag("root") && principal.getTag("root") == "yes" };'
    )
    admin = PolicyDocument('@id("admin-everything") permit (principal in Role::"admin", action, resource);' + rule)
    assert "no administrator could administer" in problems(admin)
    assert problems(PolicyDocument(admin.cedar, {"ann": {"root": "yes"}})) == ""


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ("when { false }", "its when is always false"),
        ("unless { true || context.as_of == 3 }", "its unless is always true"),
        ('when { "a" == "b" && context.as_of == 3 }', "its when is always false"),
        ("when { context.as_of < context.as_of }", "its when is always false"),
        ("when { !(context.as_of == context.as_of) }", "its when is always false"),
        ("when { context.as_of == 12345 }", "decides no test case"),
    ],
)
def test_a_policy_that_never_matches_is_warned_about(condition: str, why: str) -> None:
    document = more(f'@id("dead") forbid (principal, action == Action::"answer", resource) {condition};')
    checked = check(document, tenant="default", environment="prod")
    assert checked.sound
    assert [why in warning and "'dead'" in warning for warning in checked.warnings] == [True]


def test_parts_say_what_is_read() -> None:
    parts = parts_of(DEFAULT.cedar)
    assert (parts.keys, parts.any_key, parts.context) == ((), False, frozenset({"environment", "purpose"}))
    keyed = 'forbid (principal, action, resource) when { resource.hasTag("a") && resource.getTag("a") == "x" };'
    assert parts_of(keyed).keys == ("a",)
    dynamic = "forbid (principal, action, resource) when { resource.hasTag(context.purpose) };"
    assert parts_of(dynamic).any_key
    whole = 'forbid (principal, action, resource) when { (if true then context else context).path == "x" };'
    assert parts_of(whole).context >= {"purpose", "path", "environment", "originator", "as_of"}


def test_an_explanation_says_who_decided_and_what_would_have_been() -> None:
    decider = Decider(more(NO_NIGHT))
    resource = Resource("application", "desk")
    night = explain(decider, ANN, "answer", resource, {"as_of": 11})
    assert night.sentence == "ann (service, cleared for internal) may not answer application/desk: by no-night."
    assert night.otherwise == "Without no-night it would have been allowed by service-asks."
    assert {one.name for one in night.policies if one.outcome == "matched"} == {"no-night", "service-asks"}
    assert [one.name for one in night.policies if one.decided] == ["no-night"]
    day = explain(decider, ANN, "answer", resource, {})
    assert (day.decision.allowed, day.otherwise) == (True, "Without it nothing would have permitted this.")
    closed = explain(decider, ANN, "administer", resource, {})
    assert closed.otherwise.startswith("Nothing else matched")
    keyed = Principal("ann", "default", "service", limits=Limits(("read",)))
    assert "its key is only for read" in explain(decider, keyed, "answer", resource, {}).sentence


def test_an_explanation_names_the_condition_that_fails() -> None:
    broken = '@id("sum") permit (principal, action, resource) when { context.as_of + 9223372036854775807 == 3 };'
    told = explain(Decider(more(broken)), ANN, "answer", Resource("application", "desk"), {"as_of": 9})
    assert not told.decision.allowed
    assert "could not be evaluated" in told.sentence
    assert told.otherwise == "The conditions of sum cannot be evaluated: any failure denies."


def test_a_diff_tells_text_and_decisions_that_change() -> None:
    recent = [PolicyRequest(ANN, "answer", Resource("application", "desk"), {"as_of": moment}) for moment in (5, 50)]
    found = compare(DEFAULT, more(NO_NIGHT), recent)
    assert f"+{NO_NIGHT}" in found.text
    assert [one.sentence for one in found.changed] == [
        "ann (service) answer application/desk: allowed (service-asks) → denied (no-night)"
    ]
    assert found.tried == len(DEFAULT.cases) + 2
    assert compare(DEFAULT, DEFAULT, recent).changed == ()
    back = compare(more(NO_NIGHT), PolicyDocument(""))
    assert len(back.changed) == sum(case.expect == "allow" for case in DEFAULT.cases)
