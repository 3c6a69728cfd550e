"""The answerer as a project wires it: every role is explained, and an evaluation reads what it is given."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import DESK, FeatureTable

from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.releases.evidence import Exposures, ShadowPairs
from antiphon.catalog.releases.releases import Bundle, ModelPin, Release
from antiphon.catalog.releases.rollouts import Rollouts
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import Rollout
from antiphon.definitions.prompt import Prompt
from antiphon.governance.identity.principal import Principal
from antiphon.releases.live import LiveReleases
from antiphon.services.answering import serving_services
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.predictions import ProjectPredictions
from antiphon.services.project.store import Store
from antiphon.serving.answerer import Answerer
from antiphon.serving.request import AnswerRequest
from antiphon.testing.scripted_engine import ScriptedEngine, echo

PLAIN = msgspec.structs.replace(
    DESK, features={}, figures=(), guards=(), classes=(), output_schema=None,
    prompt=Prompt("Flight {{ entity.flight }}: {{ question }}"),
)  # fmt: skip


class Project:
    """A project's stores with an answerer over a scripted engine."""

    def __init__(self, root: Path) -> None:
        (root / "antiphon.toml").write_text(
            '[project]\nname = "desk"\nenvironment = "test"\n\n[encryption]\nmode = "plaintext"\n'
        )
        self.store = Store.open(root)
        self.engine = ScriptedEngine(echo)
        self.commit = GroupCommit(self.store.database)
        self.rollouts = Rollouts(self.store.database)
        self.features = FeaturePlatform(self.store)
        self.answerer = self.wired()

    def wired(self, **options: Any) -> Answerer:
        releases = LiveReleases(self.store.releases, self.store.database.clock, rollouts=self.rollouts)
        return Answerer(serving_services(self.store, self.engine, self.commit, releases, self.features, **options))

    def release(self, application: ApplicationSpec, *, live: bool = False) -> Release:
        bundle = Bundle(application, ModelPin(application.model, None), "p")
        release = self.store.releases.add(bundle, self.store.scope, "author", "a test")
        if live:
            self.store.releases.activate(self.store.scope, "desk", release.id, "author", "a test")
        return release

    def request(self, **fields: Any) -> AnswerRequest:
        asker = Principal("someone", self.store.scope.tenant, "service")
        entity = {"flight": "B6 1", "origin": "JFK"}
        return AnswerRequest(self.store.scope, asker, "desk", entity, question="Late?", **fields)

    async def close(self) -> None:
        await self.answerer.close()
        await asyncio.to_thread(self.commit.close)
        self.features.close()
        self.store.close()


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    opened = Project(tmp_path)
    yield opened
    await opened.close()


async def test_every_role_is_explained_and_replayed(project: Project) -> None:
    control = project.release(PLAIN, live=True)
    candidate = project.release(msgspec.structs.replace(PLAIN, owner="the next one"))
    scope, explaining = project.store.scope, ProjectPredictions(project.store)
    rollout = project.rollouts.start(
        scope, "desk", candidate.id, control.id, Rollout(canary=(30,), shadow=1.0), "author", "a test", state="canary"
    )
    predictions: dict[str, str] = {}
    for number in range(200):
        answer = await project.answerer.answer(project.request(originating_user=f"user-{number}"))
        predictions.setdefault(answer.receipt.role, answer.prediction)
        if len(predictions) == 3:
            break
    evaluation = project.request(role="evaluation", path="batch", release=candidate.id)
    predictions["evaluation"] = (await project.answerer.answer(evaluation)).prediction
    await project.answerer.close()
    predictions["shadow"] = next(
        str(pair.shadow) for pair in ShadowPairs(project.store.database).of(scope, rollout.id) if pair.shadow
    )
    assert set(predictions) == {"live", "canary", "control", "shadow", "evaluation"}
    for role, prediction in predictions.items():
        explained = explaining.explain(scope, prediction)
        # Outside of the arms an answer names the rollout because it was mirrored.
        assert explained["rollout"] == (None if role == "evaluation" else rollout.id), role
        assert explained["role"] == role
        assert explained["release"]["id"] == (control.id if role in ("live", "control") else candidate.id)
        assert explained["asked_by"]["assignment_probability"] == (0.3 if role in ("canary", "control") else 1.0)
        assert (await explaining.replay(project.engine, scope, prediction))["identical"]
    exposed = {exposure.prediction for exposure in Exposures(project.store.database).of(scope, rollout.id)}
    assert {predictions["canary"], predictions["control"]} <= exposed


async def test_an_evaluation_reads_the_features_it_is_given(project: Project) -> None:
    release = project.release(msgspec.structs.replace(DESK, output_schema=None, guards=(), classes=()))
    table = FeatureTable()
    table.publication = None
    evaluating = project.wired(reader=lambda scope: table)
    answer = await evaluating.answer(project.request(role="evaluation", path="batch", release=release.id))
    assert table.asked[0][:2] == ({"congestion": "v1", "weather": "v1"}, {"flight": "B6 1", "origin": "JFK"})
    assert {feature.name for feature in answer.receipt.features} == {"congestion.delay", "weather.wind"}
    assert answer.receipt.publication is None
