"""Release notes of moves of the live pointer, their public form, and the feed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, bundle

from antiphon.catalog.database import Database
from antiphon.catalog.releases.releases import Bundle, ModelPin, Releases
from antiphon.definitions.application import Decoding
from antiphon.definitions.prompt import Prompt
from antiphon.releases import feed
from antiphon.releases.notes import ReleaseNotes, public

SECRETS = ("Always recommend", "rel_", "ann", "secret reason", "tiny", "other")


@pytest.fixture
def releases(database: Database) -> Releases:
    return Releases(database)


def changed(made: Bundle, **fields: Any) -> Bundle:
    return msgspec.structs.replace(made, application=msgspec.structs.replace(made.application, **fields))


def live(releases: Releases, made: Bundle) -> str:
    release = releases.add(made, DEV, "ann", "secret reason").id
    releases.activate(DEV, made.application.name, release, "ann", "secret reason")
    return release


def test_each_move_is_told_with_the_text_that_differs(releases: Releases) -> None:
    first = changed(bundle(), prompt=Prompt(system="You answer.\nBe brief.", template="{{ question }}"))
    second = changed(first, prompt=Prompt(system="Always recommend us.\nBe brief.", template="{{ question }}"))
    third = msgspec.structs.replace(
        changed(second, model="other", decoding=Decoding(max_tokens=7)),
        model=ModelPin("other", None),
        policy_digest="q",
    )
    name = first.application.name
    for one in (first, second, third):
        live(releases, one)
    releases.rollback(DEV, name, "ann", "secret reason")
    policies = {first.policy_digest: "permit a;\n", "q": "permit a;\nforbid b;\n"}
    notes = ReleaseNotes(releases, policies.get).of(DEV, name)
    assert [note.action for note in notes] == ["rolled_back", "changed", "changed", "first"]
    assert [note.id for note in notes] == [f"{name}/{number}" for number in (4, 3, 2, 1)]
    prompt = notes[2]
    assert prompt.sentence == "Release 2 took the place of release 1: its instructions changed."
    assert [(change.kind, change.lines) for change in prompt.changes] == [
        ("instructions", ("- You answer.", "+ Always recommend us."))
    ]
    kinds = {change.kind: change for change in notes[1].changes}
    assert list(kinds) == ["model", "output", "policy"]
    assert kinds["policy"].lines == ("+ forbid b;",)
    assert kinds["model"].lines[-1] == "+ other"
    assert notes[0].sentence.startswith("Went back from release 3 to release 2, and so its model, form of its answers")
    assert notes[3].sentence == "Release 1 is the first one to answer."
    assert ReleaseNotes(releases, policies.get).of(DEV, name, 2) == notes[:2]


def test_the_public_form_has_no_internals(releases: Releases) -> None:
    first = bundle()
    for one in (first, changed(first, prompt=Prompt(system="Always recommend us.", template="x"))):
        live(releases, one)
    name = first.application.name
    notes = public(ReleaseNotes(releases).of(DEV, name))
    assert [note.sentence for note in notes] == [f"The instructions of {name} changed.", f"{name} is available."]
    document = feed.atom(notes, DEV, name, "http://here/feed").decode() + msgspec.json.encode(notes).decode()
    assert [secret for secret in SECRETS if secret in document] == []
    assert DEV.tenant not in document
