"""A server's model that becomes another one behind its name: noticed, on record, and in the way of a promotion."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.harness.changing_server import ChangingServer
from tests.harness.outcomes import pair_scorer
from tests.unit.catalog.examples import bundle

from antiphon.catalog.releases.releases import ModelPin, Release
from antiphon.catalog.releases.rollouts import Judgement, RolloutRecord
from antiphon.cli import models
from antiphon.cli.output import moment
from antiphon.cli.status import remote_models_table
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError
from antiphon.definitions.application import Decoding
from antiphon.definitions.learning import Rollout
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import GenerationRequest, GenerationResult
from antiphon.engine.api.server import serve
from antiphon.engine.backends.remote import model_watch
from antiphon.engine.backends.remote.engine import RemoteEngine
from antiphon.engine.backends.remote.front import UpstreamFront
from antiphon.engine.backends.remote.protocol import version_of
from antiphon.learning.evaluation.validation import RemoteVersions
from antiphon.orchestration.rollouts import EvidenceReader, RolloutKeeper
from antiphon.services.engines.remote_models import (
    RemoteModelLine,
    RemoteModelRecord,
    accept,
    remote_model_lines,
    remote_version,
)
from antiphon.services.project.store import Store
from antiphon.services.rollouts import rollout_transitions

PLAN = Rollout(shadow=0.5, shadow_pairs=2, canary=(10, 50))


class Project:
    """A project before a server, with a live release and a validated one."""

    def __init__(self, store: Store, server: ChangingServer) -> None:
        self.store, self.server = store, server
        self.transitions = rollout_transitions(store)
        self.client = EngineClient(store.paths.engine_socket_of("engine"))
        self.engine = "main"

    @contextlib.asynccontextmanager
    async def fronted(self, *, strict: bool = False) -> AsyncIterator[None]:
        """With a process's front before the server."""
        path, stop, ready = self.store.paths.engine_socket_of("engine"), asyncio.Event(), asyncio.Event()
        record = RemoteModelRecord(self.store, self.engine).record
        front = UpstreamFront(RemoteEngine(self.server.url), record=record, look_seconds=3600.0, strict=strict)
        await front.start()
        serving = asyncio.create_task(serve(front, path, stop, ready=ready.set))
        await ready.wait()
        try:
            async with asyncio.timeout(30):
                yield
        finally:
            await self.client.close()
            stop.set()
            await serving

    async def answer(self) -> str:
        """The fingerprint of an answer."""
        async for event in self.client.generate(GenerationRequest("r", "words", "Say.", 4)):
            if isinstance(event, GenerationResult):
                return event.fingerprint
        raise AssertionError("no end")

    async def answers_until_refused(self) -> None:
        while True:
            await self.answer()

    async def noticed(self, condition: Callable[[RemoteModelLine], bool]) -> RemoteModelLine:
        """The model as it is on record, once it is so; users go on asking."""
        while True:
            await self.answer()
            for line in await asyncio.to_thread(remote_model_lines, self.store, self.store.scope):
                if condition(line) and version_of(await self.answer(), "words") == line.version:
                    return line

    def made(self, number: int, *fallback: str) -> Release:
        spec = bundle(decoding=Decoding(max_tokens=number), rollout=PLAN, model="words", features={}, fallback=fallback)
        one = type(spec)(spec.application, ModelPin("words", None), spec.policy_digest)
        return self.store.releases.add(one, self.store.scope, "me", "try")

    def validated(self, release: Release) -> None:
        self.store.releases.set_stage(
            self.store.scope, release.id, "validated", principal="gates", reason="passed", again=True
        )

    def begin(self, release: Release, *, force: bool = False) -> RolloutRecord:
        return self.transitions.begin(self.store.scope, release.id, principal="me", reason="better", force=force)

    def judged(self) -> None:
        """One look of a keeper whose judge wants to promote."""
        store = self.store
        evidence = EvidenceReader(store.exposures, store.pairs, pair_scorer(store.database), store.outcomes)

        def promote(rollout: RolloutRecord, *seen: Any) -> Judgement:
            now = datetime.now(UTC)
            return Judgement(
                rollout.id, 0, rollout.scope, rollout.state, rollout.step, "promote", "Good.", (), 1.0, 9, 9, now
            )

        RolloutKeeper(
            store.scope, store.database, store.releases, store.rollouts, store.judgements, self.transitions, evidence,
            promote,
        ).look()  # fmt: skip

    def acts(self) -> list[str]:
        return [one.action for one in self.store.audit.query(self.store.scope) if one.action.startswith("model.")]


@pytest.fixture
async def server() -> AsyncIterator[ChangingServer]:
    async with ChangingServer().serving() as made:
        yield made


@pytest.fixture
def opened(tmp_path: Path, server: ChangingServer) -> Iterator[Callable[[str], Project]]:
    stores: list[Store] = []

    def made(more: str = "") -> Project:
        (tmp_path / "antiphon.toml").write_text(f'[engine]\nkind = "remote"\nurl = "{server.url}"\n{more}')
        (tmp_path / "definitions.py").write_text("")
        stores.append(Store.open(tmp_path))
        return Project(stores[-1], server)

    yield made
    for store in stores:
        store.close()


@pytest.fixture
def project(opened: Callable[[str], Project]) -> Project:
    return opened("")


def change(server: ChangingServer, weights: str) -> None:
    server.weights, server.system = weights, f"fp_{weights.lower()}"


async def test_a_change_is_noticed_with_the_next_answer_and_blocks_a_promotion(project: Project) -> None:
    store, server, live, candidate = project.store, project.server, project.made(1), project.made(2)
    async with project.fronted():
        first = await project.noticed(lambda line: True)
        assert (first.engine, first.model, first.evidence) == ("main", "words", "log-probabilities")
        store.releases.activate(store.scope, "desk", live.id, "me", "launch")
        project.validated(candidate)
        rollout = project.begin(candidate)
        change(server, "B")
        changed = await project.noticed(lambda line: line.version != first.version)
        assert (changed.before, changed.outdated, "nats apart" in changed.reason) == (first.version, (live.id,), True)
        assert project.acts() == ["model.change", "model.see"]
        said = remote_models_table([changed])
        assert f"another model since {moment(changed.since)} than when {live.id} was made live" in said

        project.judged()
        now = store.rollouts.get(store.scope, rollout.id)
        assert (now.state, now.step) == ("shadow", 0)
        (judgement,) = store.judgements.of(store.scope, rollout.id)
        assert (judgement.decision, judgement.sentence.startswith("Held: what was seen is of another model.")) == (
            "hold",
            True,
        )
        with pytest.raises(ConflictError, match=f"words is {changed.version} since .*it was {first.version} before"):
            project.transitions.advance(store.scope, rollout.id, principal="me", reason="now")

        project.transitions.abort(store.scope, rollout.id, principal="me", reason="another model")
        with pytest.raises(InvalidInputError, match="passed its gates with another model"):
            project.begin(candidate)
        project.validated(candidate)
        project.begin(candidate)
        project.judged()
        assert store.rollouts.get(store.scope, store.rollouts.list_active(store.scope)[0].id).state == "canary"


async def test_a_changed_model_of_a_fallback_blocks_a_promotion_until_the_release_is_validated_again(
    opened: Callable[[str], Project],
) -> None:
    server = "http://127.0.0.1:9/v1"
    project = opened(f'[engines.standby]\nurl = "{server}"\n[engines.other]\nurl = "{server}"\n')
    store, project.engine = project.store, "standby"
    live, candidate, unseen = project.made(1), project.made(2, "standby"), project.made(3, "other/words")
    async with project.fronted():
        first = await project.noticed(lambda line: True)
        assert remote_version(store, candidate, ()) == RemoteVersions(fallbacks=(first.version,))
        store.releases.activate(store.scope, "desk", live.id, "me", "launch")
        project.validated(candidate)
        rollout = project.begin(candidate)
        change(project.server, "B")
        changed = await project.noticed(lambda line: line.version != first.version)
        assert changed.outdated == ()
        project.judged()
        (judgement,) = store.judgements.of(store.scope, rollout.id)
        assert "The model of its fallback standby/words is" in judgement.sentence
        with pytest.raises(ConflictError, match=f"it was {first.version} before"):
            project.transitions.advance(store.scope, rollout.id, principal="me", reason="now")
        project.transitions.abort(store.scope, rollout.id, principal="me", reason="another model")
        with pytest.raises(InvalidInputError, match="passed its gates with another model"):
            project.begin(candidate)
        project.validated(candidate)
        project.transitions.abort(store.scope, project.begin(candidate).id, principal="me", reason="enough")
        store.releases.activate(store.scope, "desk", candidate.id, "me", "better")
        change(project.server, "A")
        again = await project.noticed(lambda line: line.version == first.version)
        assert again.outdated == (candidate.id,)
    # One that is first looked at when it is first needed has not changed.
    project.validated(unseen)
    project.engine = "other"
    async with project.fronted():
        await project.noticed(lambda line: line.engine == "other")
    project.begin(unseen)


async def test_who_forces_it_is_judged_by_what_is_served_since(project: Project) -> None:
    store, live, candidate = project.store, project.made(1), project.made(2)
    async with project.fronted():
        first = await project.noticed(lambda line: True)
        store.releases.activate(store.scope, "desk", live.id, "me", "launch")
        project.validated(candidate)
        change(project.server, "B")
        await project.noticed(lambda line: line.version != first.version)
        forced = project.begin(candidate, force=True)
        assert forced.reason == "gates passed over: better"
        project.judged()
        assert store.rollouts.get(store.scope, forced.id).state == "canary"


async def test_a_model_that_comes_back_is_the_one_it_was(project: Project) -> None:
    store, server, live, candidate = project.store, project.server, project.made(1), project.made(2)
    server.noise = 0.05
    async with project.fronted():
        first = await project.noticed(lambda line: True)
        store.releases.activate(store.scope, "desk", live.id, "me", "launch")
        project.validated(candidate)
    async with project.fronted():  # Another process, which sees other noise.
        assert (await project.noticed(lambda line: line.checked_at > first.checked_at)).version == first.version
        change(server, "B")
        await project.noticed(lambda line: line.version != first.version)
        change(server, "A")
        await project.noticed(lambda line: line.version == first.version and line.since > first.since)
        project.begin(candidate)
    assert project.acts() == ["model.change", "model.change", "model.see"]


async def test_answers_of_an_evaluation_name_the_model_that_is_held_against_the_present_one(project: Project) -> None:
    release = project.made(1)
    assert remote_version(project.store, release, ["remote:words:v1:fp"]) == RemoteVersions(None, frozenset({"v1"}))
    async with project.fronted():
        fingerprint = await project.answer()
        line = await project.noticed(lambda line: True)
        assert remote_version(project.store, release, [fingerprint, await project.answer()]) == RemoteVersions(
            line.version, frozenset({line.version})
        )


async def test_without_log_probabilities_it_is_known_by_less_and_says_so(project: Project) -> None:
    project.server.logprobs = False
    async with project.fronted():
        first = await project.noticed(lambda line: line.evidence == "system fingerprint")
        project.server.weights = "B"
        await project.answer()
        change(project.server, "B")
        changed = await project.noticed(lambda line: line.version != first.version)
        assert changed.reason == "its system fingerprint is fp_b, it was fp_a"


async def test_a_changed_model_is_refused_until_it_is_accepted(
    opened: Callable[[str], Project],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(model_watch, "RETRY_SECONDS", 0.02)
    project = opened('on_change = "refuse"\n')
    with pytest.raises(NotFoundError):
        accept(project.store, "main", "words", principal="ada", reason="none was seen")
    async with project.fronted(strict=True):
        await project.noticed(lambda line: True)
        change(project.server, "B")
        with pytest.raises(UnavailableError, match=r"it is another one since .*antiphon models accept"):
            await project.answers_until_refused()
        (line,) = remote_model_lines(project.store, project.store.scope)
        assert line.refused
        assert "words: refused: its log-probabilities are" in remote_models_table([line])
        await asyncio.to_thread(models.accept, "words", reason="evaluated elsewhere", project=tmp_path, engine="main")
        assert f"words of the engine main is accepted as {line.version}" in capsys.readouterr().out
        while True:
            with contextlib.suppress(UnavailableError):
                if version_of(await project.answer(), "words") == line.version:
                    break
        assert project.acts()[0] == "model.accept"
        assert not remote_model_lines(project.store, project.store.scope)[0].refused
