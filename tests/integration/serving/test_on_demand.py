"""One on-demand feature from its declaration to an answer, a receipt, a point-in-time join and a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.harness.small_desk import ASKER, SCOPE, SmallDesk
from tests.property.features.test_equality import MemoryLog, OnePublication
from tests.property.learning.test_no_leak import Fakes

from antiphon.catalog.features.events import Event
from antiphon.catalog.learning.datasets import DatasetSpec
from antiphon.core.clock import ManualClock
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.definitions import project
from antiphon.definitions.project import ProjectSpec
from antiphon.definitions.source import SourceSpec
from antiphon.features.lake.local import LocalLake
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.offline.point_in_time.join import point_in_time
from antiphon.features.online.lmdb.overlay import LmdbOverlay
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.streaming.consumer import StreamConsumer
from antiphon.gateway.openai.common import read
from antiphon.gateway.openai.parameters import ChatParameters, chat_request
from antiphon.learning.datasets.rows import DatasetRowBuilder
from antiphon.testing.scripted_engine import ScriptedEngine, echo

NOON = datetime(2013, 4, 10, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DEFINITIONS = """
from antiphon import *
card = Entity("card", keys=["card"])
payments = Source.stream("payments", history="payments.parquet", event_time="at", event_id="id", available_at="seen")

@feature_view(entity=card, source=payments)
class Spend:
    mean_1h = mean(col.amount, window="1h", scale="0.01")
    shops_1h = distinct(col.shop, window="1h")
    shop = last(col.shop)

@on_demand_view(inputs={"amount": "number", "shop": "text", "since": "instant", "card": "text"})
class Purchase:
    ratio = on_demand(request.amount / (Spend.mean_1h + 1))
    known_shop = on_demand(request.shop.lower() == Spend.shop)
    hour = on_demand(now.hour("America/New_York"))
    waited = on_demand(now.seconds_since(request.since).round_to("60"))
    cohort = on_demand(request.card.hash_bucket(10))

desk = Application("watch", ungated="a test asks at once",
    features=[Spend, Purchase], model="scripted", purpose="fraud", entities=[card],
    prompt=Prompt(template="{{ features.purchase.ratio }} at {{ features.purchase.hour }}, {{ question }}"),
    figures=[Figure(Purchase.ratio, step=0.5), Figure(Purchase.hour)])
"""


class Watch:
    """A snapshot, a stream and an answerer over them."""

    def __init__(self, folder: Path) -> None:
        (folder / "definitions.py").write_text(DEFINITIONS)
        rows = [payment(n, NOON - n * 7 * MINUTE, float(n * 10), "ab"[n % 2]) for n in range(1, 30)]
        pq.write_table(pa.Table.from_pylist(rows), folder / "payments.parquet")
        self.project: ProjectSpec = project.load(folder)
        self.application = self.project.applications["watch"]
        spec = self.project.views["spend"]
        self.log = MemoryLog()
        for n, at in enumerate((NOON + 5 * MINUTE, NOON + 20 * MINUTE), 100):
            event = payment(n, at, 33.25, "É")
            told = {"card": event["card"], "amount": event["amount"], "shop": "é"}
            self.log.append(Event(event["id"], at, at + MINUTE, told))
        self.online, self.overlay = LmdbStore(folder / "online", b"k" * 32), LmdbOverlay(folder / "online", Scope())
        lake = LocalLake(folder / "lake")
        manifest = materialize(
            Materialization(scope=Scope(), spec=spec, as_of=NOON, through=0), lake=lake, log=self.log,
            clock=ManualClock(NOON),
        )  # fmt: skip
        self.online.build(manifest, spec, lake)
        consumer = StreamConsumer(Scope(), log=self.log, overlay=self.overlay, online=self.online, views=[spec])
        while consumer.poll(1):
            pass
        reader = FeatureReader(
            Scope(), publications=OnePublication({spec.key: manifest.id}), online=self.online, clock=ManualClock(NOON),
            overlay=self.overlay,
        )  # fmt: skip
        self.desk = SmallDesk(folder, ScriptedEngine(echo), self.application, features=reader)  # type: ignore[arg-type]

    async def ask(self, body: dict[str, Any], at: datetime = NOON + 30 * MINUTE) -> Any:
        asked = {"model": "watch", "messages": [{"role": "user", "content": "why?"}], "entity": {"card": "c1"}}
        parameters = read(json.dumps(asked | {"as_of": at.isoformat()} | body).encode(), ChatParameters)
        return await self.desk.answerer.answer(chat_request(parameters, SCOPE, ASKER, "req_1"))

    def close(self) -> None:
        self.desk.close()
        self.overlay.close()
        self.online.close()


def payment(number: int, at: datetime, amount: float, shop: str) -> dict[str, Any]:
    return {"id": f"e{number}", "card": "c1", "at": at, "seen": at + MINUTE, "amount": amount, "shop": shop}


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    made = Watch(tmp_path)
    yield made
    made.close()


SINCE = NOON - timedelta(minutes=3, seconds=29)
INPUTS: dict[str, Any] = {"amount": 250, "shop": "É", "since": SINCE.isoformat()}


def values(receipt: Any) -> dict[str, Any]:
    return {feature.name: feature.value for feature in receipt.features}


async def test_the_answer_the_join_and_the_dataset_have_the_same_values(watch: Watch, tmp_path: Path) -> None:
    moments = [NOON + minutes * MINUTE for minutes in (-50, 0, 6, 30, 500)]
    answers = [await watch.ask({"inputs": INPUTS}, at) for at in moments]
    served = [values(answer.receipt) for answer in answers]
    assert served[3]["purchase.ratio"] == 250 / (served[3]["spend.mean_1h"] + 1)
    assert served[3] | {"purchase.ratio": 0, "spend.mean_1h": 0} == {
        "spend.mean_1h": 0, "spend.shops_1h": 3, "spend.shop": "é", "purchase.ratio": 0, "purchase.known_shop": True,
        "purchase.hour": 8.0, "purchase.waited": 1980.0, "purchase.cohort": served[0]["purchase.cohort"],
    }  # fmt: skip
    assert served[4]["purchase.ratio"] is None
    # Prompted as it prints, and recorded: the value, its version, the inputs as an erasable text.
    prompt = watch.desk.scripted.asked[3].prompt
    assert f"{served[3]['purchase.ratio']:.1f}"[:1] in prompt
    assert "at 8.0, why?" in prompt
    receipt = watch.desk.receipts.get(SCOPE, answers[3].prediction)
    assert receipt.inputs_blob is not None
    kept = json.loads(watch.desk.blobs.get(SCOPE, receipt.inputs_blob))
    assert kept == {"amount": 250.0, "shop": "É", "since": "2013-04-10T11:56:31Z"}
    ratio = next(feature for feature in receipt.features if feature.name == "purchase.ratio")
    assert ratio.definition_version == watch.application.versions["purchase"]
    assert (ratio.snapshot, ratio.event_time, ratio.contract) == (None, NOON + 20 * MINUTE, "fresh")

    # Point in time, from a table's columns.
    frame = pa.table(
        {
            "card": ["c1"] * 5, "as_of": pa.array(moments, pa.timestamp("us", tz="UTC")), "amount": [250] * 5,
            "shop": ["É"] * 5, "since": pa.array([SINCE] * 5, pa.timestamp("us", tz="UTC")),
        }
    )  # fmt: skip
    joined = point_in_time(
        frame, [watch.project.views["spend"]], scope=Scope(), log=watch.log, on_demand=watch.application.on_demand
    ).to_pylist()
    assert [{name: row[name] for name in served[0]} for row in joined] == served

    # A dataset, from the outcome's table.
    table = [
        {"q": f"q{n}", "card": "c1", "at": at, "known": at + MINUTE, "fraud": "yes", "amount": 250.0, "shop": "É",
         "since": SINCE} for n, at in enumerate(moments)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "known.parquet")
    fakes = Fakes((), watch.project.views["spend"])
    made = _maker(watch, fakes).make(_dataset(watch, tmp_path / "known.parquet"))
    built = {moment: n for n, moment in enumerate(made.rows.column("moment").values)}
    for n, moment in enumerate(moments):
        place = built[int(moment.timestamp()) * 1_000_000]
        assert {name: made.rows.column(name).values[place] for name in served[n]} == served[n]


def _maker(watch: Watch, fakes: Fakes) -> DatasetRowBuilder:
    class Definitions:
        def get(self, scope: Scope, view: str, version: str) -> Any:
            return watch.project.views[view]

    return DatasetRowBuilder(
        Scope(), outcomes=fakes, receipts=fakes, texts=fakes, releases=fakes, definitions=Definitions(), log=watch.log  # type: ignore[arg-type]
    )  # fmt: skip


def _dataset(watch: Watch, path: Path) -> DatasetSpec:
    return DatasetSpec(
        application="watch", kind="training", property="fraud", positive="yes", cutoff=NOON + timedelta(days=2),
        first=NOON - timedelta(days=1), last=NOON + timedelta(days=1), maturity_seconds=0, origins=("history",),
        examples=100, seed=0, views=dict(watch.application.features), entity_keys=("card",), offsets={"payments": 2},
        labels=("yes", "no"), history=SourceSpec("known", "table", "at", "known", event_id="q", path=str(path)),
        on_demand=watch.application.on_demand,
    )  # fmt: skip


async def test_a_wrong_input_is_refused_by_name(watch: Watch) -> None:
    for inputs, name, said in (
        ({"amount": 250, "shop": "a"}, "since", "is missing"),
        (INPUTS | {"amount": "250"}, "amount", "must be a number, not str"),
        (INPUTS | {"amount": True}, "amount", "must be a number, not the bool True"),
        (INPUTS | {"since": "noon"}, "since", "must be an instant"),
        (INPUTS | {"ammount": 1}, "ammount", "has no input 'ammount'"),
        (INPUTS | {"card": "c2"}, "card", "has no input 'card'"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            await watch.ask({"inputs": inputs})
        assert (caught.value.where, caught.value.http_status) == (f"inputs.{name}", 400)
        assert said in caught.value.what
    assert watch.desk.scripted.asked == []


async def test_null_is_a_missing_value_and_answers_to_other_inputs_are_not_reused(watch: Watch) -> None:
    first = await watch.ask({"inputs": INPUTS})
    assert (await watch.ask({"inputs": INPUTS})).receipt.cache.origin == "stored"
    other = await watch.ask({"inputs": INPUTS | {"amount": 9999}})
    assert other.receipt.cache.origin == "generated"
    missing = await watch.ask({"inputs": INPUTS | {"amount": None}})
    assert values(missing.receipt)["purchase.ratio"] is None
    assert values(first.receipt)["purchase.cohort"] == values(other.receipt)["purchase.cohort"]


async def test_what_policy_hides_is_hidden_in_what_is_made_of_it(watch: Watch) -> None:
    decide = watch.desk.decider.decide

    class Masking:
        def __init__(self, said: Any) -> None:
            self._said = said
            self.masked = ("spend.mean_1h",)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._said, name)

    watch.desk.answerer._services = msgspec.structs.replace(  # type: ignore[attr-defined]
        watch.desk.answerer._services, decide=lambda *asked: Masking(decide(*asked))
    )
    found = values((await watch.ask({"inputs": INPUTS})).receipt)
    assert found["spend.mean_1h"] is None
    assert found["purchase.ratio"] is None
    assert found["purchase.hour"] == 8.0
