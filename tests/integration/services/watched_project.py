"""A project with two views, one published twice, with predictions in its catalog; over HTTP and in the terminal."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from tests.harness import fakes
from tests.harness.gateway_client import project_client
from tests.harness.refresh import run_refresh
from tests.integration.cli.conftest import Ran
from tests.integration.features.altered import alter
from typer.testing import CliRunner

from antiphon.catalog.features.events import Event
from antiphon.catalog.serving.receipt import FeatureReceipt, Receipt
from antiphon.cli.main import assemble
from antiphon.core.errors import AntiphonError
from antiphon.core.ids import content_hash, new_id
from antiphon.features.tiles.tile import Tile
from antiphon.governance.identity.principal import Principal
from antiphon.services.apply.apply import apply
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store
from antiphon.serving.request import AnswerRequest

DEFINITIONS = """
from antiphon import (
    Application, Entity, Figure, Freshness, Prompt, Source, col, count, feature_view, last, mean, on_demand,
    on_demand_view,
    request,
)

shop = Entity("shop", keys=["shop"])
orders = Source.table("orders", path="orders.csv", event_time="ordered", event_id="id")
visits = Source.stream("visits", event_time="at", event_id="id")


@feature_view(entity=shop, source=orders, refresh="15m")
class Today:
    "What came in."
    orders = count(window=None)
    paid = last(col.paid)
    takings = mean(col.paid, window=None, scale="0.01")


@feature_view(entity=shop, source=visits)
class Crowd:
    visits = count(window=None)


@on_demand_view(inputs={"minutes": "number"})
class Wait:
    each = on_demand(request.minutes / Today.orders)


Application("desk", ungated="a test asks at once",
    features=[Today, Crowd, Wait], entities=[shop], model="smollm2-135m", purpose="tests",
    figures=[Figure(Wait.each, step=0.1)],
    freshness={"today": Freshness(max_age="1h"), "crowd": Freshness(max_age="10m")},
    prompt=Prompt(template="{{ features.wait.each }}"))
"""
ROWS = [f"{n},{'tea' if n % 2 else 'cake'},2026-01-01T10:{n:02}:00Z,{n}.5" for n in range(40)]


class Project:
    """The project's folder, with what a worker and a gateway would do to it."""

    def __init__(self, folder: Path, definitions: str = DEFINITIONS) -> None:
        self.folder = folder
        (folder / "antiphon.toml").write_text('[project]\nname = "shop"\n[engine]\nkind = "simulated"\n')
        (folder / "definitions.py").write_text(definitions)
        self.write(*ROWS)
        self.store = Store.open(folder)
        self.store.secret("subject")  # As every process that answers has made it before there are receipts.
        apply(self.store, principal="me")
        self.platform = FeaturePlatform(self.store)
        self.store.secret("subject")  # made with the first answer; here receipts are written by hand
        self.visit("v0", "tea")

    def visit(self, identity: str, shop: str) -> None:
        now = self.store.database.clock.now()
        self.store.events.append(
            self.store.scope, "visits", [Event(identity, now, now, {"shop": shop, "id": identity})]
        )

    def write(self, *rows: str) -> None:
        (self.folder / "orders.csv").write_text("\n".join(["id,shop,ordered,paid", *rows]) + "\n")

    async def refresh(self, *views: str, ends: str = "succeeded") -> None:
        await run_refresh(self.store, self.platform, *views, ends=ends)

    def consume(self) -> None:
        while self.platform.consume(1_000):
            pass

    def predicted(self, shop: str, as_of: datetime | None = None, *, minutes: float | None = None) -> Receipt:
        """A prediction about a shop, as its receipt says, without an engine; ``minutes`` is what its request said."""
        views = {spec.name: spec.definition_version for spec in self.platform.views().values()}
        now = as_of or self.store.database.clock.now()
        vector = self.platform.reader(self.store.scope).read(views, {"shop": shop}, now)
        principal = Principal(id="asker", tenant="default", role="service")
        request = AnswerRequest(self.store.scope, principal, "desk", {"shop": shop}, question="Late?", as_of=now)
        receipt, texts = fakes.make_receipt(request, "Yes.", self.store.database.clock)
        features = tuple(
            FeatureReceipt(
                name, value.value, str(value.value), value.definition_version, value.snapshot, value.event_time, 1.0,
                "fresh", value.stream_offset,
            )
            for name, value in vector.values.items()
        )  # fmt: skip
        receipt = msgspec.structs.replace(receipt, prediction=new_id("pred"), features=features, release="model:tiny")
        if minutes is not None:
            release = self.store.releases.live(self.store.scope, "desk")
            assert release is not None
            (wait,) = release.bundle.application.on_demand
            orders = next(one.value for one in features if one.name == "today.orders")
            assert isinstance(orders, int)
            each = FeatureReceipt(
                "wait.each", minutes / orders, None, wait.definition_version, None, features[0].event_time, 1.0, "fresh"
            )
            said = msgspec.json.encode({"minutes": minutes})
            receipt = msgspec.structs.replace(
                receipt, features=(*features, each), release=release.id, inputs_blob=content_hash(said)
            )
            texts = (*texts, said)
        self.store.receipts.add(receipt, texts)
        return receipt

    def alter(self, view: str) -> None:
        """One bit in a sealed value, under a seal that fits: what a broken disk under a hash made later would leave."""
        publication = self.store.publications.current(self.store.scope)
        assert publication is not None
        spec = next(spec for spec in self.platform.views().values() if spec.name == view)
        snapshot, store, codec = publication.snapshots[spec.key], self.platform.online, self.store.database.codec
        file = store.file(self.store.scope, view, snapshot)  # type: ignore[union-attr]

        def change(tile: Tile) -> None:
            tile.count += 1

        alter(file, snapshot, change, codec=codec, scope=self.store.scope)

    def http(self, role: str = "engineer", page: bool = False) -> AbstractAsyncContextManager[httpx2.AsyncClient]:
        """A client of a gateway over this project, in process; signed in at the dashboard for pages."""
        return project_client(self.folder, role, page=page)

    def terminal(self, *arguments: str) -> Ran:
        """The program, in this process: starting it takes longer than what it does here."""
        done = CliRunner().invoke(assemble(), [*arguments, "--project", str(self.folder)])
        code = done.exit_code
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            assert isinstance(done.exception, AntiphonError), done.exception
            code = done.exception.exit_code
        return Ran(code, done.stdout, done.stderr)

    def close(self) -> None:
        self.platform.close()
        self.store.close()


def told(answer: httpx2.Response, code: int = 200) -> Any:
    """The answer's JSON, once its status is the one expected."""
    assert answer.status_code == code, answer.text
    return answer.json()
