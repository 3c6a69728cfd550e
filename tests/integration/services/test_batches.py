"""Batches over a project's stores: what a run that is cancelled does to its batch, and where files lie."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from tests.chaos.harness.chaos_project import APPLICATION, write_project

from antiphon.app.wiring import ProjectRuns, request_batches
from antiphon.batch.orders import TableOrder
from antiphon.batch.request_batches import WORKFLOW, BatchOrder
from antiphon.catalog.batch.batches import Batches
from antiphon.core.errors import ConflictError, InvalidInputError, SetupError, UnavailableError
from antiphon.features.lake.s3 import S3Lake
from antiphon.governance.identity.principal import Principal
from antiphon.services.apply.apply import apply
from antiphon.services.batches import (
    ProjectTableJobs,
    askable,
    batch_context,
    file_contents,
    file_store,
    table_jobs,
)
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store

ADA = Principal("ada", "default", "admin")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_project(tmp_path / "project", "simulated").root


def test_cancelling_the_run_of_a_batch_lets_its_worker_end_it(root: Path) -> None:
    with closing(Store.open(root)) as store, closing(file_contents(store)) as contents:
        files = file_store(store, contents)
        upload = files.begin(store.scope, "ada")
        upload.write(b"{}\n")
        order = BatchOrder(upload.keep("batch", "in.jsonl").id, "/v1/completions", "24h")
        batches = request_batches(store, files)
        made = batches.create(store.scope, ADA, order)
        (run,) = store.runs.list(store.scope, workflow=WORKFLOW)
        runs = ProjectRuns(store, None)  # type: ignore[arg-type]
        assert runs.cancel(store.scope, run.id, ADA).status == "queued"
        assert batches.records.get(store.scope, made.id).status == "cancelling"
        assert not store.runs.get(store.scope, run.id).cancel_requested, "somebody has to make its files"
        epoch = Batches(store.database).take_over(store.scope, made.id)
        Batches(store.database).settle(store.scope, made.id, epoch, "cancelled")
        Batches(store.database).finish(store.scope, made.id, epoch)
        with pytest.raises(ConflictError, match="cancelled"):
            runs.cancel(store.scope, run.id, ADA)
        assert askable(store, store.scope) == ["simulated"]


def test_tables_of_orders_over_http_lie_below_the_prefix_in_the_settings(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE_KEY", "key")
    settings, place = root / "antiphon.toml", "?endpoint=http://127.0.0.1:1"
    keys = 'lake_access_key_variable = "PLACE_KEY"\nlake_secret_key_variable = "PLACE_KEY"\n'
    before = settings.read_text() + f'\n[features]\nlake = "s3://bucket/lake{place}"\n{keys}[batch]\n'
    settings.write_text(f'{before}files = "s3://bucket/files{place}"\ntables = "s3://bucket/tables/{place}"\n')
    with closing(Store.open(root)) as store, closing(FeaturePlatform(store)) as features:
        confined = ProjectTableJobs(store, features, confined=True)
        at_terminal = ProjectTableJobs(store, features, confined=False)
        order = TableOrder(APPLICATION, input="s3://bucket/tables/in.jsonl", output="out.jsonl")
        apply(store, principal="test")
        for jobs in (confined, at_terminal):
            with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1 does not answer"):  # It was let through.
                jobs.outlook(store.scope, ADA, order)
            for own in ("s3://bucket/lake/in.jsonl", "s3://bucket/files/in.jsonl"):
                with pytest.raises(InvalidInputError, match="keeps its own objects there"):
                    jobs.outlook(store.scope, ADA, msgspec.structs.replace(order, input=own))
        with pytest.raises(InvalidInputError, match="no table of an order over HTTP"):
            confined.outlook(store.scope, ADA, msgspec.structs.replace(order, input="s3://bucket/in.jsonl"))
        context = batch_context(store, "worker")
        assert table_jobs(store, features, None, context).objects is not None  # type: ignore[arg-type]
    for wrong in ("s3://bucket/lake/tables", "s3://", "bucket/tables"):
        settings.write_text(f'{before}tables = "{wrong}"\n')
        with closing(Store.open(root)) as store, closing(FeaturePlatform(store)) as features:
            with pytest.raises(InvalidInputError) as refused:
                ProjectTableJobs(store, features, confined=True)
            assert refused.value.where == "[batch] tables"


def test_files_lie_where_the_settings_say(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = root / "antiphon.toml"
    place = 'files = "s3://bucket/files?endpoint=http://127.0.0.1:1"\nfiles_access_key_variable = "FILES_KEY"\n'
    settings.write_text(f"{settings.read_text()}\n[batch]\n{place}")
    with closing(Store.open(root)) as store:
        with pytest.raises(SetupError, match="FILES_KEY") as missing:
            file_contents(store)
        assert missing.value.where == "[batch] files_access_key_variable"
        monkeypatch.setenv("FILES_KEY", "key")
        with closing(file_contents(store)) as contents:
            assert isinstance(contents, S3Lake)
            assert str(contents.place) == "s3://bucket/files at http://127.0.0.1:1"
