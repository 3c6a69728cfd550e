"""apply for applications that learn: the live fine-tuned model is kept, and a rollout is not jumped over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from antiphon.catalog.releases.releases import Bundle, ModelPin, Release
from antiphon.catalog.releases.rollouts import Rollouts
from antiphon.core.errors import ConflictError
from antiphon.learning.retraining.examples import served_application
from antiphon.services.apply.apply import ApplyReport, apply
from antiphon.services.project.store import Store
from antiphon.services.rollouts import rollout_transitions

SETTINGS = '[project]\nname = "shops"\n[engine]\nkind = "simulated"\nmodels = ["base", "other"]\n'

DEFINITIONS = """
from antiphon import (
    Application, Decoding, Entity, Figure, FineTune, Outcome, Prompt, Rollout, Source, TrainingWindow, count,
    feature_view,
)

orders = Source.table("orders", path="orders.csv", event_time="ordered", event_id="id")


@feature_view(entity=Entity("shop", keys=["shop"]), source=orders)
class Today:
    orders = count(window="24h")


desk = Application(
    "desk", ungated="a test asks at once", purpose="tell", features=[Today], figures=[Figure("today.orders", step=5)],
    prompt=Prompt("{{ features.today.orders }}, at length"),
    output={"type": "object", "properties": {"outlook": {"type": "string", "enum": ["good", "bad"]}}},
    decoding=Decoding(max_tokens=20),
    outcome=Outcome("outlook", positive="bad"),
    model=FineTune(base="base", prompt=Prompt("{{ features.today.orders }}"), window=TrainingWindow(embargo="1d")),
)
"""


class Project:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "definitions.py"
        (folder / "antiphon.toml").write_text(SETTINGS)
        self.file.write_text(DEFINITIONS)
        self.store = Store.open(folder)
        self.scope = self.store.scope

    def apply(self, activate: bool | None = None, **replacements: str) -> ApplyReport:
        text = DEFINITIONS
        for old, new in replacements.items():
            assert old in text
            text = text.replace(old, new)
        self.file.write_text(text)
        return apply(self.store, principal="me", activate=activate)

    def live(self) -> Release:
        live = self.store.releases.live(self.scope, "desk")
        assert live is not None
        return live

    def train(self) -> Release:
        """What a training releases, made live."""
        spec = served_application(self.live().bundle.application, "desk.v1")
        pin = ModelPin("desk.v1", "aa" * 32, "desk.v1")
        release = self.store.releases.add(Bundle(spec, pin, self.store.decider.digest), self.scope, "worker", "trained")
        self.store.releases.activate(self.scope, "desk", release.id, "me", "it passed")
        return release


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    yield project
    project.store.close()


def test_the_first_release_serves_the_base_model_with_the_applications_own_prompt(project: Project) -> None:
    applied = project.apply()
    assert applied.activated == ("desk",)
    live = project.live()
    assert (live.bundle.model.name, live.bundle.model.version) == ("base", None)
    assert live.bundle.application.prompt.template.endswith("at length")


def test_applying_what_is_declared_keeps_the_fine_tuned_release_as_it_is(project: Project) -> None:
    project.apply()
    trained = project.train()
    applied = project.apply()
    assert (applied.activated, applied.notes) == ((), ())
    assert project.live().id == trained.id == applied.releases[0].id


def test_a_changed_definition_keeps_the_live_model_and_what_it_was_trained_on(project: Project) -> None:
    project.apply()
    trained = project.train()
    applied = project.apply(**{"max_tokens=20": "max_tokens=30", "}}, at length": "}}, briefly"})
    (release,) = applied.releases
    assert applied.activated == ("desk",)
    assert release.id != trained.id
    assert release.bundle.model == trained.bundle.model
    assert release.bundle.application.prompt == trained.bundle.application.prompt
    assert release.bundle.application.decoding.max_tokens == 30


def test_another_prompt_of_the_fine_tuned_model_is_released_with_a_warning(project: Project) -> None:
    project.apply()
    trained = project.train()
    applied = project.apply(
        **{'prompt=Prompt("{{ features.today.orders }}")': 'prompt=Prompt("Shop {{ entity.shop }}")'}
    )
    (release,) = applied.releases
    assert release.bundle.application.prompt.template == "Shop {{ entity.shop }}"
    assert release.bundle.model == trained.bundle.model
    assert "antiphon train desk" in applied.notes[0]


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [('base="base"', 'base="other"', "base model"), ('"good", "bad"', '"fine", "bad"', "output")],
)
def test_a_model_that_fits_no_more_is_left_for_the_base_model(project: Project, old: str, new: str, part: str) -> None:
    project.apply()
    project.train()
    applied = project.apply(**{old: new})
    assert applied.releases[0].bundle.model.version is None
    assert part in applied.notes[0]
    assert "does not fit" in applied.notes[0]


ROLLOUT = {'outcome=Outcome("outlook"': 'rollout=Rollout(canary=(50,)), outcome=Outcome("outlook"'}


def test_a_declared_rollout_begins_and_is_passed_over_only_when_it_is_said(project: Project) -> None:
    first = project.apply(**ROLLOUT)
    assert first.activated == ("desk",), "nothing was live that it could be compared with"
    live = project.live()
    applied = project.apply(**ROLLOUT, **{"max_tokens=20": "max_tokens=30"})
    (release,) = applied.releases
    begun = Rollouts(project.store.database).active(project.scope, "desk")
    assert begun is not None
    assert (applied.activated, applied.rollouts, begun.candidate) == ((), {"desk": begun.id}, release.id)
    assert project.live() == live
    rollout_transitions(project.store).abort(project.scope, begun.id, principal="me", reason="it is urgent")
    at_once = project.apply(True, **ROLLOUT, **{"max_tokens=20": "max_tokens=30"})
    assert at_once.activated == ("desk",)
    assert project.live().id == release.id


def test_no_activate_makes_drafts_and_nothing_else(project: Project) -> None:
    project.apply()
    applied = project.apply(False, **{"max_tokens=20": "max_tokens=30"})
    assert (applied.activated, applied.waiting) == ((), ())
    assert applied.releases[0].stage == "draft"


def test_nothing_goes_live_under_a_rollout_and_nothing_is_applied(project: Project) -> None:
    project.apply(**ROLLOUT)
    project.apply(**ROLLOUT, **{"max_tokens=20": "max_tokens=30"})
    before = project.store.applied.current(project.scope)
    with pytest.raises(ConflictError, match="under way"):
        project.apply(True, **ROLLOUT, **{"max_tokens=20": "max_tokens=40"})
    after = project.store.applied.current(project.scope)
    assert before is not None
    assert after is not None
    assert after.number == before.number
    assert len(project.store.releases.list(project.scope, "desk")) == 2
    assert Rollouts(project.store.database).active(project.scope, "desk") is not None
    waiting = project.apply(**ROLLOUT, **{"max_tokens=20": "max_tokens=30"})
    assert "is on its way (canary)" in waiting.notes[0]
    assert waiting.waiting == ("desk",)
