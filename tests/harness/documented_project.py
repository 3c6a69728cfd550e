"""A project with documents in a folder, refreshed as a worker would, and its applications over a scripted engine."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.harness.gateway_client import project_client
from tests.harness.refresh import run_refresh

from antiphon.catalog.group_commit import GroupCommit
from antiphon.definitions.embedding import EmbeddingModel
from antiphon.engine.api.port import GenerationEngine
from antiphon.governance.identity.principal import Principal
from antiphon.releases.live import LiveReleases
from antiphon.services.answering import serving_services
from antiphon.services.apply.apply import apply
from antiphon.services.features import platform as features
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.refreshing import finish_apply
from antiphon.services.project.store import Store
from antiphon.serving.answerer import Answerer
from antiphon.serving.request import Answer, AnswerRequest
from antiphon.testing.embedding import GivenEmbedders, HashedWords

TINY = HashedWords()
DEFINITIONS = """
from antiphon import *

handbook = Documents("handbook", path="handbook", refresh="15m", model={model}, chunk=300, overlap=0)
Application("assistant", features=[], model="scripted", purpose="support", ungated="a test asks at once",
    reuse=Reuse("never", identical_prompts=False),
    retrievals=[Retrieval(handbook, k=2)], freshness={{handbook: Freshness(max_age="1h")}},
    prompt=Prompt(system="You answer from the handbook.", template='''{{% for chunk in retrieved.handbook %}}
[{{{{ chunk.number }}}}] {{{{ chunk.text }}}}
{{% endfor %}}
{{{{ question }}}}'''))
"""
HANDBOOK = {
    "returns.md": "# Returns\n\nA parcel may be returned within thirty days.\n\n## Glass\n\nBroken glass is replaced.",
    "delivery/times.md": "# Delivery\n\nParcels take three to five days to arrive.",
    "hours.txt": "The shop opens at nine and closes at six in the evening.",
    "page.html": "<title>Gift cards</title><h1>Gift cards</h1><p>A gift card is valid for <b>two</b> years.</p>",
}


def definitions(model: EmbeddingModel | str = TINY.model, text: str = DEFINITIONS) -> str:
    """The definitions with an embedding model in them."""
    return text.format(model=repr(model))


class DocumentedProject:
    """The project's folder, with what a worker and a gateway would do to it."""

    def __init__(
        self, folder: Path, text: str | None = None, documents: dict[str, str] | None = None, settings: str = ""
    ) -> None:
        self.folder = folder
        self.documents = folder / "handbook"
        (folder / "antiphon.toml").write_text(
            '[project]\nname = "shop"\n[engine]\nkind = "simulated"\nmodels = ["scripted"]\n' + settings
        )
        (folder / "definitions.py").write_text(text or definitions())
        for name, content in (HANDBOOK if documents is None else documents).items():
            self.write(name, content)
        self.store = Store.open(folder)
        self.store.secret("subject")
        self.scope = self.store.scope
        self.applied = apply(self.store, principal="me")
        self.platform = FeaturePlatform(self.store)
        self.asker = Principal("someone", "default", "service")

    def write(self, name: str, content: str | bytes) -> None:
        path = self.documents / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    async def declare(self, text: str) -> None:
        """Apply other definitions, and publish what is new of them as a worker would."""
        (self.folder / "definitions.py").write_text(text)
        self.applied = apply(self.store, principal="me")
        if self.applied.run is not None:
            await asyncio.to_thread(finish_apply, self.store, self.applied.run, platform=self.platform)
        self.platform.views_changed()

    async def refresh(self, *views: str, ends: str = "succeeded") -> None:
        await run_refresh(self.store, self.platform, *views, ends=ends)

    def answerer(self, engine: GenerationEngine) -> Answerer:
        commit = GroupCommit(self.store.database)
        live = LiveReleases(self.store.releases, self.store.database.clock)
        return Answerer(serving_services(self.store, engine, commit, live, self.platform))

    async def ask(self, engine: GenerationEngine, question: str, application: str = "assistant", **more: Any) -> Answer:
        request = AnswerRequest(self.scope, self.asker, application, question=question, **more)
        return await self.answerer(engine).answer(request)

    def http(self, role: str, page: bool = False) -> AbstractAsyncContextManager[httpx2.AsyncClient]:
        """A client of a gateway over this project, in process; signed in at the dashboard for pages."""
        return project_client(self.folder, role, page=page)

    def close(self) -> None:
        self.platform.close()
        self.store.close()


def give_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every platform embed with the tiny model."""
    monkeypatch.setattr(features, "LocalEmbedders", lambda: GivenEmbedders(TINY))
