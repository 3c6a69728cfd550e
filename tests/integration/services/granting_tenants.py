"""Two tenants of one installation: the owner of features and models, and one to whom they are granted."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.integration.cli.conftest import Ran
from tests.integration.services.watched_project import DEFINITIONS, Project
from typer.testing import CliRunner

from antiphon.app.wiring import ProcessServices
from antiphon.cli.main import assemble
from antiphon.core.errors import AntiphonError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.engine.api.messages import ServedModel
from antiphon.engine.api.server import serve
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.execution.local import LocalEngine
from antiphon.gateway.application import create_app
from antiphon.governance.identity.grants import GrantKind
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.document import PolicyDocument
from antiphon.services.apply.apply import ApplyPlan, apply, plan
from antiphon.services.governance.grants import ProjectGrants
from antiphon.services.project.store import Store

MODEL = "smollm2-135m"
OWNER, RIVAL = Scope("default", "dev"), Scope("rival", "dev")
ADMIN = Principal("ann", "default", "admin", "person", "restricted")
RITA = Principal("rita", "rival", "admin", "person", "restricted")
MORE = """

tills = Source.table("tills", path="orders.csv", event_time="ordered", event_id="id")


@feature_view(entity=shop, source=tills, sensitivity={"paid": "confidential", "open": "public"}, purposes=["tests"])
class Till:
    paid = last(col.paid)
    open = count(window=None)
"""
OWN = """
from antiphon import Application, Entity, Figure, Freshness, GrantedView, Prompt, Source, count, feature_view

shop = Entity("shop", keys=["shop"])
own = Source.table("own", path="orders.csv", event_time="ordered", event_id="id")


@feature_view(entity=shop, source=own)
class Mine:
    orders = count(window=None)
"""
BOARD = (
    OWN
    + """
Today = GrantedView("default/today", entity=shop, features=["orders", "paid"])
Application(
    "board", ungated="a test asks at once", features=[Today], model="smollm2-135m", purpose="tests",
    figures=[Figure(Today.orders, step=1)], freshness={Today: Freshness(max_age="36500d")},
    prompt=Prompt(template="Orders: {{ features.default_today.orders }}"),
)
"""
)
TEA = {"shop": "tea"}


class Installation:
    """The owner's project, and one of the tenant ``rival`` over the same stores."""

    def __init__(self, folder: Path, more: str = "") -> None:
        (folder / "owner").mkdir(exist_ok=True)
        self.owner = Project(folder / "owner", DEFINITIONS + MORE) if not more else _with(folder / "owner", more)
        self.folder = folder / "rival"
        self.folder.mkdir()
        (self.folder / "antiphon.toml").write_text(
            f'[project]\nname = "board"\ntenant = "rival"\ndirectory = "{self.owner.store.paths.directory}"\n'
            f'[engine]\nkind = "simulated"\n{more}'
        )
        self.key, _ = self.owner.store.keys.create("rival", "rita", "admin")
        self.grants = ProjectGrants(self.owner.store)

    def grant(self, name: str = "today", kind: GrantKind = "view", **terms: Any) -> None:
        self.grants.create(kind, name, "rival", reason="shared", by=ADMIN, **terms)

    def revoke(self, name: str = "today", kind: GrantKind = "view") -> None:
        self.grants.revoke(kind, name, "rival", reason="over", by=ADMIN)

    def apply(self, definitions: str = BOARD) -> None:
        (self.folder / "definitions.py").write_text(definitions)
        store = Store.open(self.folder)
        try:
            apply(store, principal="rita")
        finally:
            store.close()

    def owner_plan(self) -> ApplyPlan:
        return plan(self.owner.store)

    def terminal(self, *arguments: str, root: Path | None = None) -> Ran:
        done = CliRunner().invoke(assemble(), [*arguments, "--project", str(root or self.owner.folder)])
        error = done.exception
        code = error.exit_code if isinstance(error, AntiphonError) else done.exit_code
        return Ran(code, done.stdout, done.stderr)

    @asynccontextmanager
    async def http(self, root: Path | None = None, key: str | None = None) -> AsyncIterator[httpx2.AsyncClient]:
        """A client of a gateway, the owner's by default, with the rival's key by default."""
        wired = ProcessServices(Store.open(root or self.owner.folder), "test")
        transport = httpx2.ASGITransport(create_app(wired.gateway_services()))
        headers = {"authorization": f"Bearer {key or self.key}"}
        try:
            async with httpx2.AsyncClient(transport=transport, base_url="http://x", headers=headers) as opened:
                yield opened
        finally:
            await wired.close()

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[ProcessServices]:
        """The rival's services with an engine behind its socket."""
        engine = LocalEngine({MODEL: SimulatedRuntime(MODEL, words=2)}, load=_simulated)
        await engine.start()
        stop, ready = asyncio.Event(), asyncio.Event()
        serving = asyncio.create_task(
            serve(engine, self.owner.store.paths.engine_socket_of("engine"), stop, ready=ready.set)
        )
        wired = ProcessServices(Store.open(self.folder), "test")
        try:
            await asyncio.wait_for(ready.wait(), 10)
            async with asyncio.timeout(20):
                while True:
                    try:
                        await wired.engine.describe()
                        break
                    except UnavailableError:
                        await asyncio.sleep(0.01)
            yield wired
        finally:
            await wired.close()
            stop.set()
            await serving

    def close(self) -> None:
        self.owner.close()


def _simulated(model: ServedModel) -> SimulatedRuntime:
    return SimulatedRuntime(model.name, words=2, weights=model.sha256)


def _with(folder: Path, more: str) -> Project:
    """A project whose settings say more from its first start on."""
    write = Path.write_text

    def written(path: Path, text: str, *rest: Any, **others: Any) -> int:
        return write(path, text + more if path.name == "antiphon.toml" else text, *rest, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", written)
        return Project(folder, DEFINITIONS + MORE)


@contextmanager
def published(folder: Path) -> Iterator[Installation]:
    """A new installation whose owner has published features."""
    made = Installation(folder)
    try:
        asyncio.run(made.owner.refresh())
        made.owner.consume()
        yield made
    finally:
        made.close()


@contextmanager
def copied(written: Path, folder: Path) -> Iterator[Installation]:
    """An installation with a copy of an owner's folder."""
    shutil.copytree(written, folder / "owner")
    made = Installation(folder)
    try:
        yield made
    finally:
        made.close()


def put_in_force(store: Store, scope: Scope, document: PolicyDocument) -> None:
    proposed = store.policy_sets.propose(scope, document, principal="ann", rationale="-")
    store.policy_sets.approve(scope, proposed.number, principal="bea", reason="-")
