"""Exports: what other tools read is what is published; nothing half-written, nothing twice, nothing against policy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import deltalake
import pandas
import polars
import pyarrow.parquet
import pytest
from tests.integration.cli.conftest import run_in
from tests.integration.services.shops import START, shops, write_orders

from antiphon.core.errors import ConflictError, CorruptionError, ForbiddenError, NotFoundError
from antiphon.features.exports.export import Format
from antiphon.services.export.export import export_view
from antiphon.services.export.frames import Project
from antiphon.services.governance.identity import at_terminal
from antiphon.services.governance.policy_versions import PolicyService


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    opened = shops(tmp_path / "shops")
    yield opened
    opened.close()


def exported(project: Project, target: Path, view: str = "orders", format: Format = "delta", **options: Any) -> Any:
    store = project._store
    return export_view(store, view, target, format, principal=at_terminal(store), **options)


def test_a_table_opens_without_antiphon(project: Project, tmp_path: Path) -> None:
    target = tmp_path / "orders"
    first = exported(project, target)
    assert (first.written.version, first.written.rows, first.written.changed) == (0, 3, True)
    table = deltalake.DeltaTable(str(target))
    # Readers up to Spark's first Delta release open it.
    assert (table.protocol().min_reader_version, table.protocol().reader_features) == (1, None)
    by_polars = polars.read_delta(str(target)).sort("shop")
    by_pandas = table.to_pandas().sort_values("shop", ignore_index=True)
    by_arrow = pyarrow.table(table.to_pyarrow_table()).sort_by("shop")
    assert by_polars.columns == [
        "shop", "courier", "courier__event_time", "latest", "latest__event_time", "minutes", "minutes__event_time",
        "never", "never__event_time", "placed", "placed__event_time",
    ]  # fmt: skip
    assert by_polars["latest"].to_list() == by_pandas["latest"].tolist() == by_arrow["latest"].to_pylist()
    assert dict(zip(by_polars["shop"], by_polars["courier"], strict=True)) == dict.fromkeys(by_polars["shop"], "c9")
    told = table.history(1)[0]
    assert told["antiphon.snapshot"] == first.about.snapshot
    assert told["antiphon.definition_version"] == project.views["orders"].definition_version
    assert told["antiphon.as_of"] == first.about.as_of


WITHOUT = """
import sys

class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "antiphon":
            raise ImportError("antiphon is not here")

sys.meta_path.insert(0, Nowhere())
sys.path = [entry for entry in sys.path if "site-packages" in entry or "lib" in entry]
try:
    import antiphon
except ImportError:
    pass
else:
    sys.exit("antiphon is here")
import deltalake, duckdb, pandas, polars, pyarrow.dataset
table, file = sys.argv[1:]
lake = deltalake.DeltaTable(table).to_pyarrow_dataset()
found = {
    "polars": polars.read_delta(table).sort("shop")["latest"].to_list(),
    "deltalake and pandas": deltalake.DeltaTable(table).to_pandas().sort_values("shop")["latest"].tolist(),
    "pyarrow": lake.to_table().sort_by("shop")["latest"].to_pylist(),
    "duckdb": duckdb.sql(f"SELECT latest FROM '{file}' ORDER BY shop").fetchnumpy()["latest"].tolist(),
    "duckdb over delta": duckdb.sql("SELECT latest FROM lake ORDER BY shop").fetchnumpy()["latest"].tolist(),
    "pandas": pandas.read_parquet(file).sort_values("shop")["latest"].tolist(),
}
assert all(each == found["polars"] and len(each) == 3 for each in found.values()), found
assert not any(name.partition(".")[0] == "antiphon" for name in sys.modules)
"""


def test_other_tools_read_it_where_there_is_no_antiphon(project: Project, tmp_path: Path) -> None:
    exported(project, tmp_path / "table")
    file = exported(project, tmp_path / "files", format="parquet").written.path
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path / "table"), file],
        cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


def test_each_snapshot_is_a_version_and_the_same_one_is_none(project: Project, tmp_path: Path) -> None:
    target = tmp_path / "orders"
    first = exported(project, target)
    again = exported(project, target)
    assert (again.written.changed, again.written.version) == (False, 0)
    write_orders(project._store.paths.root, days=12)
    project.refresh("orders")
    second = exported(project, target)
    assert (second.written.version, second.about.snapshot != first.about.snapshot) == (1, True)
    assert polars.read_delta(str(target))["placed"].to_list() == [12] * 3
    assert polars.read_delta(str(target), version=0)["placed"].to_list() == [10] * 3
    back = exported(project, target, snapshot=first.about.snapshot)
    assert back.written.version == 2, "an older snapshot is exported as the newest version"


def test_a_folder_of_something_else_is_left_alone(project: Project, tmp_path: Path) -> None:
    target = tmp_path / "orders"
    exported(project, target)
    with pytest.raises(ConflictError, match=r"not antiphon\.default\.dev\.clerks"):
        exported(project, target, "clerks")
    assert deltalake.DeltaTable(str(target)).version() == 0
    other = tmp_path / "other"
    deltalake.write_deltalake(str(other), pandas.DataFrame({"a": [1]}))
    with pytest.raises(ConflictError, match="unnamed"):
        exported(project, other)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.me").write_text("mine")
    with pytest.raises(ConflictError, match="something else"):
        exported(project, tmp_path / "notes")


def test_a_parquet_file_says_what_it_is(project: Project, tmp_path: Path) -> None:
    made = exported(project, tmp_path / "files", format="parquet")
    file = tmp_path / "files" / f"{made.about.snapshot}.parquet"
    assert made.written.path == str(file)
    assert sorted(pandas.read_parquet(file)["latest"]) == [27.0, 28.0, 29.0]
    assert pyarrow.parquet.read_schema(file).metadata[b"antiphon.snapshot"].decode() == made.about.snapshot
    stamp = file.stat().st_mtime_ns
    assert not exported(project, tmp_path / "files", format="parquet").written.changed
    assert (file.stat().st_mtime_ns, [each.name for each in (tmp_path / "files").iterdir()]) == (stamp, [file.name])


def test_a_changed_file_of_the_lake_does_not_leave(project: Project, tmp_path: Path) -> None:
    store = project._store
    publication = store.publications.current(store.scope)
    assert publication is not None
    manifest = store.snapshots.get(store.scope, publication.snapshots[project.views["orders"].key])
    file = store.paths.lake / manifest.files[2].path
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptionError, match="changed"):
        exported(project, tmp_path / "orders")
    assert not (tmp_path / "orders").exists()


NOT_TEA = """
@id("not-tea") forbid (principal, action == Action::"export", resource)
when { resource.hasTag("shop") && resource.getTag("shop") == "tea" };
"""


def test_policy_decides_about_views_columns_and_rows(tmp_path: Path) -> None:
    (tmp_path / "shops").mkdir()
    (tmp_path / "shops" / "rows.cedar").write_text(NOT_TEA)
    project = shops(tmp_path / "shops", options=", purposes=['billing']", more='[policy]\nfiles = ["rows.cedar"]\n')
    try:
        store = project._store
        policies = PolicyService(store)
        policies.propose(store.scope, policies.declared(), by=at_terminal(store), reason="they asked for it")
        policies.approve(store.scope, 1, by=at_terminal(store), reason="agreed")
        with pytest.raises(ForbiddenError, match=r"may not export view/orders.*feature-purpose") as refusal:
            exported(project, tmp_path / "orders")
        assert "declared for billing, and none is given" in (refusal.value.next_step or "")
        assert "--purpose billing" in (refusal.value.next_step or ""), "how it is named"
        assert not (tmp_path / "orders").exists()
        made = exported(project, tmp_path / "orders", purpose="billing")
        assert (made.written.rows, made.written.withheld) == (2, 1)
        assert "tea" not in polars.read_delta(str(tmp_path / "orders"))["shop"].to_list()
        assert project.values("orders", purpose="billing").num_rows == 2
        for shop, denied in (["bakery", "tea", "tea"], 2), (["bakery"], 0):
            told = (
                pytest.raises(ForbiddenError, match="2 of 3 rows of view/orders: not-tea") if denied else nullcontext()
            )
            with told:
                project.online({"shop": shop}, ["orders.placed"], purpose="billing")
            with told:
                rows = {"shop": shop, "as_of": [START] * len(shop)}
                project.training_set(rows, ["orders.placed"], purpose="billing")
        refused = [record.subject for record in store.audit.query(store.scope) if record.action == "denied"]
        assert refused == ["view/orders"] * 3, "refusals are on record"
    finally:
        project.close()


def test_an_encrypted_project_is_exported_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_PASSPHRASE", "a passphrase that is long enough")
    root = tmp_path / "shops"
    root.mkdir()
    (root / "antiphon.toml").write_text('[project]\nname = "shops"\n[encryption]\nmode = "encrypted"\n')
    begun = run_in(root)("encryption", "init", "--json")
    assert begun.code == 0, begun.err
    project = shops(root, more='[encryption]\nmode = "encrypted"\n')
    try:
        with pytest.raises(ConflictError, match="encrypted"):
            exported(project, tmp_path / "orders")
        assert not (tmp_path / "orders").exists()
        assert exported(project, tmp_path / "orders", clear=True).written.rows == 3
        told = [
            record for record in project._store.audit.query(project._store.scope)
            if record.action == "features.export"
        ]  # fmt: skip
        assert len(told) == 1
    finally:
        project.close()


def test_the_command_exports(project: Project, tmp_path: Path) -> None:
    antiphon = run_in(project._store.paths.root)
    made = antiphon("features", "export", "orders", "--to", str(tmp_path / "orders"), "--json")
    assert made.code == 0, made.err
    assert made.json()["written"]["version"] == 0
    again = antiphon("features", "export", "orders", "--to", str(tmp_path / "orders"))
    assert "already" in again.out
    assert antiphon("features", "export", "orders", "--to", "x", "--format", "csv").code == 2
    with pytest.raises(NotFoundError, match="No view named 'ghosts'"):
        exported(project, tmp_path / "x", "ghosts")
    with pytest.raises(NotFoundError, match="is of orders"):
        exported(project, tmp_path / "c", "clerks", snapshot=made.json()["about"]["snapshot"])


CHILD = """
import os, sys, time
from pathlib import Path
import deltalake, pyarrow
from antiphon.features.exports.export import write_delta
from antiphon.features.exports.exported import ExportMetadata

def say(what):
    os.write(1, f"{what}\\n".encode())

class Rows:
    rows = withheld = 0
    def __init__(self, number, halt):
        self.number, self.halt = number, halt
    def reader(self):
        schema = pyarrow.schema([("shop", pyarrow.string()), ("n", pyarrow.int64())])
        def batches():
            for part in range(10):
                self.reached(part)
                names = pyarrow.array([f"{part}-{row}-{self.number}" for row in range(2000)])
                yield pyarrow.record_batch([names, pyarrow.array([self.number] * 2000)], schema=schema)
            self.reached(10)
        return pyarrow.RecordBatchReader.from_batches(schema, batches())
    def reached(self, part):
        if part == self.halt:
            say("there")
            time.sleep(60)

def export(number, halt):
    what = ExportMetadata("v", f"snap_{number}", "d", "t", "h", "default", "dev")
    if halt == -1:
        say("there")
    write_delta(Path(sys.argv[1]), Rows(number, halt), what)
    if halt == 11:
        say("there")
        time.sleep(60)

# One process has the libraries, and each export is a copy of it.
for line in sys.stdin:
    number, halt = map(int, line.split())
    child = os.fork()
    if not child:
        say(os.getpid())
        export(number, halt)
        os._exit(0)
    os.waitpid(child, 0)
    say("over")
"""


def test_killed_anywhere_a_reader_sees_the_table_before_or_after(tmp_path: Path) -> None:
    target = tmp_path / "table"
    command = [sys.executable, "-c", CHILD, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as exporting:
        assert exporting.stdin is not None
        assert exporting.stdout is not None

        def told() -> str:
            assert exporting.stdout is not None
            return exporting.stdout.readline().strip()

        def export(number: int, halt: int) -> None:
            """Begin one; where it halts, kill it, and wait until it is over."""
            print(number, halt, file=exporting.stdin, flush=True)
            child = int(told())
            said = told()
            if said == "there":
                os.kill(child, signal.SIGKILL)
                said = told()
            assert said == "over"

        export(0, 99)
        seen = 0
        # Before anything, before the first rows, amid them, before and at the last, and after the commit.
        for number, halt in enumerate((-1, 0, 4, 9, 10, 11), 1):
            export(number, halt)
            table = polars.read_delta(str(target))
            numbers = table["n"].unique().to_list()
            assert (table.height, len(numbers)) == (20_000, 1), "a mix, or a part"
            assert numbers[0] in ((number,) if halt == 11 else (seen, number) if halt == -1 else (seen,))
            seen = numbers[0]
        export(99, 99)
        assert polars.read_delta(str(target))["n"].unique().to_list() == [99]
        exporting.stdin.close()
    log = sorted((target / "_delta_log").glob("*.json"))
    assert all(json.loads(line) for file in log for line in file.read_text().splitlines())
