"""The whole of a training with nothing replaced: history, real child process, real engine, real gates. Tiny."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

import pytest
from tests.integration.training.tiny import write_base

from antiphon.app.wiring import ProcessServices
from antiphon.cli.blueprints.orders import write_orders
from antiphon.core.clock import SystemClock
from antiphon.core.errors import NotFoundError, SetupError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.engine.api.messages import ChatTurn
from antiphon.governance.identity.principal import Principal
from antiphon.learning.retraining.orders import TrainingRequest
from antiphon.services.apply.apply import apply
from antiphon.services.engines import commands
from antiphon.services.governance.grants import ProjectGrants
from antiphon.services.learning.served_models import ServedModels
from antiphon.services.learning.training import LearningPlatform
from antiphon.services.predictions import ProjectPredictions
from antiphon.services.project.store import Store
from antiphon.serving.request import AnswerRequest, DecodingOverrides
from antiphon.training.processes import TrainingProcesses
from antiphon.training.recipe import require_libraries

SETTINGS = """
[project]
name = "shops"
[engine]
models = ["{model}"]
slots = 4
context = 256
"""

DEFINITIONS = """
from antiphon import (
    Application, Decoding, Entity, Figure, FineTune, Gates, MetricGate, Outcome, Prompt, Source, TrainingWindow, col,
    feature_view, mean,
)

shop = Entity("shop", keys=["shop"])
times = {"event_time": "ordered", "available_at": "handed_over", "event_id": "order_id"}
orders = Source.table("orders", path="orders.csv", **times)
told = Source.table("told", path="told.csv", **times)


@feature_view(entity=shop, source=orders)
class Today:
    minutes = mean(col.minutes, window="24h", scale="0.01")


desk = Application(
    "desk", ungated="a test asks at once",
    purpose="tell customers",
    features=[Today],
    prompt=Prompt("At the {{ entity.shop }} orders take {{ features.today.minutes }} minutes."),
    output={
        "type": "object",
        "properties": {
            "outlook": {"type": "string", "enum": ["on_time", "delayed"]},
            "notice": {"type": "string", "maxLength": 32},
        },
        "required": ["outlook", "notice"],
        "additionalProperties": False,
    },
    decoding=Decoding(max_tokens=160),
    figures=[Figure("today.minutes", step=5)],
    model=FineTune(
        base="{model}",
        targets={"notice": "Orders take {{ features.today.minutes }} minutes."},
        window=TrainingWindow(history="10d", maturity="3h", embargo="2d"),
        examples=12, batch=12, epochs=2.0, rank=2, alpha=4, whole_share=0.5,
    ),
    outcome=Outcome("outlook", positive="delayed", history=told),
    gates=Gates(metrics={"auc": MetricGate(), "brier": MetricGate()}, valid_share=None, false_share=None,
                injected_share=None, leaked_share=None, pii_share=None, toxic_share=None, rows=5),
)
"""


def project(folder: Path) -> Path:
    until = datetime.now(UTC)
    write_orders(folder, until)
    with (folder / "orders.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::9]
    with (folder / "told.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["order_id", "shop", "ordered", "handed_over", "outlook"])
        for number, row in enumerate(rows):
            late = number % 2 == 0  # twelve rows drawn of these have one label once in 2,048 times
            writer.writerow(
                [row["order_id"], row["shop"], row["ordered"], row["handed_over"], "delayed" if late else "on_time"]
            )
    model = str(write_base(folder / "tiny.gguf"))
    (folder / "antiphon.toml").write_text(SETTINGS.replace("{model}", model))
    (folder / "definitions.py").write_text(DEFINITIONS.replace("{model}", model))
    return folder


@asynccontextmanager
async def engine_of(store: Store, wired: ProcessServices) -> AsyncIterator[None]:
    store.paths.run.mkdir(parents=True, exist_ok=True)
    with (store.paths.root / "engine.log").open("wb") as log:
        process = subprocess.Popen(
            commands.command(store), stdout=log, stderr=log, env={**os.environ, "OTEL_SDK_DISABLED": "true"}
        )
    try:
        end = monotonic() + 60
        while True:
            try:
                await wired.engine.describe()
                break
            except UnavailableError:
                assert process.poll() is None, (store.paths.root / "engine.log").read_text()
                assert monotonic() < end
                await asyncio.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)


async def work(store: Store, learning: LearningPlatform, run: str) -> Run:
    registry = WorkflowRegistry()
    learning.register(registry)
    stop = asyncio.Event()
    executor = Executor(store.database, registry, "worker", Scope(), backoff=timedelta(seconds=0.1))
    working = asyncio.create_task(executor.run_until(stop))
    try:
        async with asyncio.timeout(300):
            while (found := store.runs.get(store.scope, run)).status not in ENDED:
                await asyncio.sleep(0.1)
    finally:
        stop.set()
        await working
    return found


def texts_of(store: Store, release: str) -> list[str]:
    """The whole outputs that a release wrote."""
    receipts = [one for one in store.receipts.list(store.scope, limit=500) if one.release == release]
    texts = [store.blobs.get(store.scope, one.text_blob).decode() for one in receipts]
    whole = [text for text in texts if "notice" in text]
    assert whole
    return whole


async def test_a_model_is_trained_served_evaluated_validated_and_trained_again_to_the_same_bytes(
    tmp_path: Path,
) -> None:
    try:
        require_libraries()
    except SetupError as error:
        if os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
            raise
        pytest.skip(str(error))
    store = Store.open(project(tmp_path))
    wired = ProcessServices(store, "test")
    try:
        applied = apply(store, principal="me")
        assert applied.activated == ("desk",)
        served = ServedModels.of(store, wired.engine)
        # Beside the other tests the training gets its part of the machine, or the bound below would measure them.
        trainer = TrainingProcesses(SystemClock(), floor=0.5, window=5.0)
        learning = LearningPlatform(
            store, wired.engine, wired.commit, wired.features, run_training=trainer.run, served=served
        )
        async with engine_of(store, wired):
            order = TrainingRequest("desk", rows=8, texts=1)
            run = await work(store, learning, learning.orders.place(store.scope, "me", order))
            assert run.status == "succeeded", run.error
            found = run.result
            assert (found["model"], found["stage"]) == ("desk.v1", "validated"), found["reasons"]
            counted = {"new": 12, "replayed": 0, "refused": 0, "canaries": 0, "unwritten": 0, "erased": 0}
            assert found["examples"] == counted
            used = {one.resource: one for one in store.ledger.of_work(store.scope, [run.id])}
            assert used["training_processor"].quantity > 500_000, "a process that only loads torch takes more"
            assert used["training_processor"].application == used["worker"].application == "desk"
            version = store.models.get(store.scope, "desk.v1")
            chosen = learning.services.arithmetic()
            assert (version.recipe["dtype"], version.recipe["device"]) == (chosen.dtype, chosen.device)
            first, *_, last = version.losses  # Every step is over the same twelve examples: their losses compare.
            assert (first[0], last[0]) == (1, 2)
            assert last[1] < first[1]
            evaluation = store.evaluations.get(store.scope, found["evaluation"])
            assert (evaluation.rows, evaluation.whole_rows, evaluation.failed) == (8, 1, {})
            assert evaluation.against == applied.releases[0].id
            for text in texts_of(store, found["release"]):
                assert json.dumps(json.loads(text), ensure_ascii=False) == text, "it is trained in another spacing"
            live = store.releases.live(store.scope, "desk")
            assert live is not None
            assert live.id == applied.releases[0].id
            definitions = tmp_path / "definitions.py"
            definitions.write_text(definitions.read_text().replace("max_tokens=160", "max_tokens=159"))
            (draft,) = apply(store, principal="me", activate=False).releases
            told: list[tuple[int, int, str]] = []
            verdict = await learning.validate(
                store.scope, draft.id, principal="me", rows=8, texts=0, progress=lambda *one: told.append(one)
            )
            assert (verdict.release.stage, verdict.reasons, told[-1][:2]) == ("validated", (), (8, 8))
            again = await work(store, learning, learning.orders.rebuild(store.scope, "me", "desk.v1"))
            assert again.status == "succeeded", again.error
            assert (again.result["equal"], again.result["differences"]) == (True, [])
            await _ask_as_another_tenant(store, wired, served)
    finally:
        await wired.close()


async def _ask_as_another_tenant(store: Store, wired: ProcessServices, served: ServedModels) -> None:
    """The trained weights answer a tenant that they are granted to, and its replay makes the same bytes."""
    by = Principal("ann", store.scope.tenant, "admin", "person", "restricted")
    rita = Principal("rita", "rival", "admin", "person", "restricted")
    asked = AnswerRequest(
        Scope("rival", "dev"), rita, "default/desk.v1", {}, messages=(ChatTurn("user", "Hello"),),
        overrides=DecodingOverrides(max_tokens=4),
    )  # fmt: skip
    with pytest.raises(NotFoundError, match="no application or model"):
        await wired.answerer.answer(asked)
    with store.database.transaction() as connection:
        store.keys.principals.tenants.create("rival", by="ann", within=connection)
    ProjectGrants(store).create("model", "desk.v1", "rival", reason="shared", by=by)
    await served.reconcile()
    receipt = (await wired.answerer.answer(asked)).receipt
    assert receipt.attempts[0].model == "default/desk.v1"
    assert (await ProjectPredictions(store).replay(wired.engine, asked.scope, receipt.prediction))["identical"]
