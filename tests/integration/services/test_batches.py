"""Batches over a project's stores: what a run that is cancelled does to its batch, and where files lie."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from tests.chaos.harness.chaos_project import write_project

from antiphon.app.wiring import ProjectRuns, request_batches
from antiphon.batch.request_batches import WORKFLOW, BatchOrder
from antiphon.catalog.batch.batches import Batches
from antiphon.core.errors import ConflictError, SetupError
from antiphon.features.lake.s3 import S3Lake
from antiphon.governance.identity.principal import Principal
from antiphon.services.batches import askable, file_contents, file_store
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
