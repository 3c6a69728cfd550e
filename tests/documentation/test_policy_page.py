"""The rules that docs/policy.md prints can be proposed, approved, and do what the page says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from antiphon.catalog.database import Database
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.document import PolicyDocument, default_document
from antiphon.governance.policy.engine import Decider
from antiphon.governance.policy.request import PolicyColumn, Resource
from antiphon.governance.policy.validation import check
from antiphon.governance.policy.versions import PolicySets

PAGE = Path(__file__).parents[2] / "docs" / "policy.md"
BLOCKS = re.findall(r"^```text\n(.*?)^```", PAGE.read_text(), re.M | re.S)
RULES = {name: block for block in BLOCKS if (name := "".join(re.findall(r'^@id\("([^"]+)"\)', block)))}
PEOPLE = next(tomllib.loads(block)["attributes"] for block in BLOCKS if block.startswith("[attributes."))


def document(*names: str) -> PolicyDocument:
    text = "\n".join((default_document().cedar, *(RULES[name] for name in names)))
    return PolicyDocument(text, PEOPLE, default_document().cases)


@pytest.mark.parametrize("names", [[name] for name in RULES] + [list(RULES)], ids=lambda names: "+".join(names))
def test_a_printed_rule_is_proposed_and_approved(names: list[str], tmp_path: Path) -> None:
    assert check(document(*names), tenant="default", environment="prod").problems == ()
    database = Database.open(f"sqlite:///{tmp_path}/catalog.db")
    database.migrate()
    sets, scope = PolicySets(database, lambda *args, **more: None), Scope("default", "prod")
    proposed = sets.propose(scope, document(*names), principal="ann", rationale="as printed")
    assert sets.approve(scope, proposed.number, principal="bob", reason="read").state == "in_force"
    database.close()


def test_the_row_rule_keeps_a_service_to_its_region() -> None:
    decider = Decider(document("own-region-only"))
    desk = Resource("application", "desk")
    decided = {
        (who, origin): decider.decide(
            Principal(who, "default", "service"), "answer", desk, {"keys": {"origin": origin}}
        ).allowed
        for who in ("newark-desk", "another")
        for origin in ("EWR", "JFK")
    }
    assert [asked for asked, allowed in decided.items() if allowed] == [("newark-desk", "EWR")]


def test_a_rule_that_widens_a_default_case_is_refused() -> None:
    wider = document()
    text = wider.cedar + '@id("wide") permit (principal in Role::"viewer", action == Action::"answer", resource);'
    problems = check(PolicyDocument(text, {}, wider.cases), tenant="default", environment="prod").problems
    assert any("viewers only read" in problem for problem in problems)


def test_a_masked_column_is_read_as_absent() -> None:
    decider = Decider(document("hide-restricted"))
    desk = Resource("application", "desk", None, (PolicyColumn("v.a", "restricted"), PolicyColumn("v.b", "public")))
    said = decider.decide(Principal("app", "default", "service"), "answer", desk)
    assert (said.allowed, said.masked) == (True, ("v.a",))
