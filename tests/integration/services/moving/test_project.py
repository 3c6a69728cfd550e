"""A project moves from its folder to PostgreSQL, S3, Redis and NATS and back, and nothing of it is another one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from tests.contract.catalog.test_datasets import dataset
from tests.contract.catalog.test_evaluations import evaluation
from tests.harness.moved_project import CREDENTIALS, STORES, Servers, logical_hashes, moves_on_record, replayed
from tests.harness.refresh import run_refresh
from tests.integration.cli.conftest import Ran
from typer.testing import CliRunner

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.features.events import Event
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.cli.main import assemble
from antiphon.core.errors import AntiphonError, SetupError
from antiphon.governance.encryption import keyring
from antiphon.governance.identity.principal import Principal
from antiphon.releases.live import LiveReleases
from antiphon.services.answering import serving_services
from antiphon.services.apply.apply import apply
from antiphon.services.batches import file_contents, file_store
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.moving import catalog, settings_file
from antiphon.services.moving import project as moving
from antiphon.services.moving.project import MOVE, move
from antiphon.services.moving.settings_file import edited
from antiphon.services.project.store import Store, open_store
from antiphon.serving.answerer import Answerer
from antiphon.serving.request import AnswerRequest
from antiphon.testing.scripted_engine import MODEL, ScriptedEngine, echo

DEFINITIONS = """
from antiphon import Application, Entity, Figure, Prompt, Source, col, count, feature_view, mean

pump = Entity("pump", keys=["pump"])
readings = Source.stream("readings", event_time="at", event_id="id")
repairs = Source.table("repairs", path="repairs.csv", event_time="at", event_id="id")


@feature_view(entity=pump, source=readings)
class Heat:
    readings = count(window=None)
    degrees = mean(col.degrees, window=None, scale="0.1")


@feature_view(entity=pump, source=repairs)
class Repairs:
    repairs = count(window=None)


Application("watch", ungated="a test asks at once",
    features=[Heat, Repairs], entities=[pump], model="simulated", purpose="tests",
    figures=[Figure(Heat.readings, step=1), Figure(Heat.degrees, step=0.1)],
    prompt=Prompt(template="{{ entity.pump }}: {{ features.heat.readings }} {{ features.heat.degrees }}. "
        "{{ question }}"))
"""
SETTINGS = """# Pumps of a plant.
[project]
name = "pumps"

[engine]
kind = "simulated"
models = ["simulated"]
"""
START = datetime.now(UTC) - timedelta(hours=2)


class Pumps:
    """The project's folder, and what processes do to it."""

    def __init__(self, root: Path, more: str = "") -> None:
        self.root = root
        root.mkdir()
        (root / "antiphon.toml").write_text(SETTINGS + CREDENTIALS + more)
        (root / "definitions.py").write_text(DEFINITIONS)
        rows = [f"r{n},p{n % 3},{START + timedelta(minutes=n):%Y-%m-%dT%H:%M:%SZ}" for n in range(30)]
        (root / "repairs.csv").write_text("\n".join(["id,pump,at", *rows]) + "\n")
        self.engine = ScriptedEngine(echo, (msgspec.structs.replace(MODEL, name="simulated"),))
        self.predictions: list[str] = []

    def read_in(self, numbers: range, *, consumed: int | None = None, refreshed: bool = False) -> None:
        """Let events come, let the worker take some of them, and make a snapshot of what is there."""
        with open_store(self.root) as store, closing(FeaturePlatform(store)) as platform:
            apply(store, principal="test")
            events = [
                Event(f"e{n}", START + timedelta(seconds=n * (1 - 2 * (n % 7 == 6))), START + timedelta(seconds=n),
                      {"pump": f"p{n % 3}", "degrees": 20 + n / 10, "id": f"e{n}"})
                for n in numbers
            ]  # fmt: skip
            store.events.append(store.scope, "readings", events)
            while platform.consume(consumed or 1_000) and consumed is None:
                pass
            if refreshed:
                asyncio.run(run_refresh(store, platform))

    async def ask(self, pump: str) -> str:
        """Ask the application about a pump; the text."""
        with open_store(self.root) as store, closing(FeaturePlatform(store)) as platform:
            commit = GroupCommit(store.database)
            releases = LiveReleases(store.releases, store.database.clock)
            answerer = Answerer(serving_services(store, self.engine, commit, releases, platform))
            asker = Principal("operator", store.scope.tenant, "service")
            answer = await answerer.answer(AnswerRequest(store.scope, asker, "watch", {"pump": pump}, question="Hot?"))
            await answerer.close()
            await asyncio.to_thread(commit.close)
            self.predictions.append(answer.prediction)
            return answer.text

    def keep_history(self) -> None:
        """An evaluation, a dataset and a file of a batch."""
        with open_store(self.root) as store, closing(FeaturePlatform(store)) as platform:
            store.evaluations.add(evaluation("eval_1"))
            with platform.lake.writing(store.scope, ".parquet") as draft:
                draft.write(b"rows")
            store.datasets.add(dataset("d1", path=draft.path, sha256=draft.sha256))
            with closing(file_contents(store)) as contents:
                upload = file_store(store, contents).begin(store.scope, "ada")
                upload.write(b"{}\n")
                self.file = upload.keep("batch", "in.jsonl")

    def file_content(self) -> bytes:
        """What is in the file of the batch."""
        with (
            open_store(self.root) as store,
            closing(file_contents(store)) as contents,
            file_store(store, contents).open(self.file) as content,
        ):
            return content.read()

    def migrate(self, *arguments: str) -> Ran:
        """The command, in this process."""
        done = CliRunner().invoke(assemble(), ["migrate", *arguments, "--project", str(self.root)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            if not isinstance(done.exception, AntiphonError):
                raise done.exception
            return Ran(done.exception.exit_code, done.stdout, done.exception.located)
        return Ran(done.exit_code, done.stdout, done.stderr)


BACK = [word for store in STORES for word in (f"--{store}", "embedded")]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.remove()


@pytest.fixture
def there(servers: Servers) -> list[str]:
    """The options that name the servers."""
    return [word for store, url in servers.fresh().items() for word in (f"--{store}", url)]


@pytest.fixture
def pumps(tmp_path: Path, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Pumps:
    for name, value in servers.environment.items():
        monkeypatch.setenv(name, value)
    return filled(Pumps(tmp_path / "pumps"))


@pytest.fixture
def sealed_pumps(tmp_path: Path, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Pumps:
    for name, value in {**servers.environment, "ANTIPHON_PASSPHRASE": "four words of pumps"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(keyring, "N", 2**10)
    keyring.create(tmp_path / "ring.json", "four words of pumps")
    return filled(Pumps(tmp_path / "pumps", '[encryption]\nmode = "encrypted"\nkeyring = "../ring.json"\n'))


def filled(made: Pumps) -> Pumps:
    made.read_in(range(40), refreshed=True)
    made.read_in(range(40, 60), consumed=15)
    made.keep_history()
    return made


async def test_there_and_back_nothing_is_lost_and_receipts_replay(sealed_pumps: Pumps, there: list[str]) -> None:
    pumps = sealed_pumps
    text = await pumps.ask("p1")
    before, settings = logical_hashes(pumps.root), (pumps.root / "antiphon.toml").read_text()

    planned = json.loads(pumps.migrate(*there, "--dry-run", "--json").out)
    assert logical_hashes(pumps.root) == before
    grown_up = pumps.migrate(*there, "--json")
    assert grown_up.code == 0, grown_up.err
    moved: dict[str, Any] = json.loads(grown_up.out)
    assert [part["part"] for part in moved["parts"]] == ["lake", "files", "log", "online", "catalog"]
    assert {part["part"]: part["items"] for part in planned["parts"] if part["part"] != "online"} == {
        part["part"]: part["items"] for part in moved["parts"] if part["part"] != "online"
    }
    assert logical_hashes(pumps.root) == before
    assert all((await replayed(pumps.root, pumps.engine, pumps.predictions)).values())
    assert await pumps.ask("p1") == text

    # The project goes on there: more events, another snapshot, pruned streams; then it comes back.
    await asyncio.to_thread(pumps.read_in, range(60, 90), refreshed=True)
    await asyncio.to_thread(pumps.read_in, range(90, 100), consumed=5)
    grown = await pumps.ask("p2")
    there_before = logical_hashes(pumps.root)
    back = pumps.migrate(*BACK, "--json")
    assert back.code == 0, back.err
    assert logical_hashes(pumps.root) == there_before
    assert await pumps.ask("p2") == grown
    assert all((await replayed(pumps.root, pumps.engine, pumps.predictions)).values())
    assert len(pumps.predictions) == 4
    assert (pumps.root / "antiphon.toml").read_text() == settings
    assert pumps.file_content() == b"{}\n"

    # And there again, into stores that hold what they held.
    there_before = logical_hashes(pumps.root)
    again = json.loads(pumps.migrate(*there, "--json").out)
    assert logical_hashes(pumps.root) == there_before
    assert next(part["moved"] for part in again["parts"] if part["part"] == "log") == 0

    # Each move is on record, in the catalog that it left as in the one that counts.
    with open_store(pumps.root) as store, closing(Database.open(f"sqlite:///{store.paths.catalog}")) as left:
        on_record = moves_on_record(store)
        assert [one["kind"] for one in on_record] == ["stopped"] * 3
        assert set(on_record[0]["to"]) >= {f"{part['part']} {part['target']}" for part in again["parts"]}
        rows = sa.select(schema.audit_entries).where(schema.audit_entries.c.action == MOVE)
        assert left.rows(rows) == store.database.rows(rows)


class Killed(BaseException):
    """Ends a move where a kill would."""


def test_a_move_that_is_killed_anywhere_is_ended_by_the_next(
    pumps: Pumps, there: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = edited((pumps.root / "antiphon.toml").read_text(), dict(zip(STORES, there[1::2], strict=True)))

    def dies(*arguments: object) -> None:
        raise Killed

    for place, where in enumerate(("bytes of lake", "rows of snapshots", "events of readings", "snapshots of")):
        with pytest.raises(Killed):
            move(pumps.root, requested, lambda what, *_, where=where: dies() if what.startswith(where) else None)
        pumps.read_in(range(60 + place, 61 + place), consumed=2)  # The project goes on with the stores that it has.
    before = logical_hashes(pumps.root)
    for module, name, left in (
        (moving, "set_marks", False), (catalog, "remove_marks", True), (settings_file, "replace", True)
    ):  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(module, name, dies)
            with pytest.raises(Killed):
                move(pumps.root, requested)
        if not left:
            assert logical_hashes(pumps.root) == before
            continue
        with pytest.raises(SetupError, match="was moved to"):  # The source was left: the next move ends it.
            Store.open(pumps.root)
    assert move(pumps.root, requested).parts == ()
    assert logical_hashes(pumps.root) == before


def test_what_was_copied_ahead_is_not_copied_again(pumps: Pumps, there: list[str]) -> None:
    with open_store(pumps.root) as store:
        leases = ProcessLeases(store.database, "dev")
        leases.acquire("worker/a", "one", 60)  # The project serves.
        ahead = json.loads(pumps.migrate(*there, "--ahead", "--json").out)
        assert {part["part"] for part in ahead["parts"]} == {"lake", "files", "catalog", "log", "online"}
        assert "worker/a" in pumps.migrate(*there).err
        leases.release("worker/a", "one")
    pumps.read_in(range(60, 70), refreshed=True)
    before = logical_hashes(pumps.root)
    moved = {part["part"]: part for part in json.loads(pumps.migrate(*there, "--json").out)["parts"]}
    assert logical_hashes(pumps.root) == before
    assert (moved["log"]["items"], moved["log"]["moved"]) == (70, 10)
    assert 0 < moved["lake"]["moved"] < moved["lake"]["items"]
    assert 0 < moved["catalog"]["moved"] < moved["catalog"]["items"]


def test_files_that_the_lake_has_lost_keep_the_project_where_it_is(pumps: Pumps, there: list[str]) -> None:
    with open_store(pumps.root) as store, closing(FeaturePlatform(store)) as platform:
        lost = store.datasets.files(store.scope)[0]
        platform.lake.remove(lost)
    refused = pumps.migrate(*there)
    assert refused.code != 0
    assert f"has lost 1 of its files, the first is {lost}" in refused.err
    with open_store(pumps.root):
        pass
    assert json.loads(pumps.migrate(*there, "--leave-lost", "--json").out)["lost"] == [lost]


def test_what_cannot_be_a_target_is_refused_and_nothing_is_told_of_passwords(pumps: Pumps, servers: Servers) -> None:
    settings = (pumps.root / "antiphon.toml").read_text()
    host = f"127.0.0.1:{servers.postgres.port}"
    for option, url in (
        ("--catalog", f"postgresql://antiphon:hunter2@{host}/postgres"),
        ("--online", f"redis://:hunter2@127.0.0.1:{servers.redis.port}/0"),
        ("--log", f"nats://me:hunter2@127.0.0.1:{servers.nats.port}"),
        ("--lake", f"s3://me:hunter2@lake/x?endpoint={servers.s3.endpoint}"),
        ("--files", f"s3://lake/x?endpoint={servers.s3.endpoint}&secret_key=hunter2"),
    ):
        refused = pumps.migrate(option, url)
        assert (refused.code != 0, "hunter2" in refused.out + refused.err) == (True, False), option
        assert "password" in refused.err or "credentials" in refused.err, refused.err
    servers.postgres.run(
        "CREATE ROLE weak LOGIN PASSWORD 'hunter2 with @ and /'",
        "CREATE ROLE reader LOGIN PASSWORD 'hunter2 with @ and /'",
        "ALTER ROLE reader SET default_transaction_read_only = on",
        "CREATE DATABASE strict",
    )
    for user, said in (("weak", "may not make tables"), ("reader", "takes no writes")):
        refused = pumps.migrate("--catalog", f"postgresql://{user}@{host}/strict")
        assert refused.code != 0
        assert said in refused.err, refused.err
    assert "no bucket" in pumps.migrate("--lake", f"s3://absent/x?endpoint={servers.s3.endpoint}").err
    assert "does not answer" in pumps.migrate("--log", "nats://127.0.0.1:1").err
    assert "Every store is there already" in pumps.migrate("--lake", "embedded").err
    other = pumps.root / "other.toml"
    other.write_text(settings.replace('name = "pumps"', 'name = "fans"'))
    assert "The section [project] differs" in pumps.migrate("--to", str(other)).err
    assert "no such file of settings" in pumps.migrate("--to", str(pumps.root / "absent.toml")).err
    assert "Name the stores to move to" in pumps.migrate().err
    assert (pumps.root / "antiphon.toml").read_text() == settings
    with open_store(pumps.root):
        pass


def test_a_host_with_the_old_settings_is_told_the_new_place(pumps: Pumps, servers: Servers) -> None:
    before, settings = logical_hashes(pumps.root), (pumps.root / "antiphon.toml").read_text()
    grown = pumps.root / "grown.toml"
    grown.write_text(settings.replace("[features]\n", f'[features]\nlake = "{servers.fresh()["lake"]}"\n'))
    assert pumps.migrate("--to", str(grown)).code == 0
    assert (pumps.root / "antiphon.toml").read_text() == grown.read_text()
    assert logical_hashes(pumps.root) == before
    (pumps.root / "antiphon.toml").write_text(settings)
    with pytest.raises(SetupError, match="The lake was moved to s3://"):
        Store.open(pumps.root)
    assert pumps.migrate("--to", str(grown)).code == 0, "what was moved is only looked at again"
    assert pumps.migrate("--lake", "embedded").code == 0
    assert logical_hashes(pumps.root) == before


def test_another_tenants_project_with_the_old_settings_is_told_the_new_place(
    pumps: Pumps, servers: Servers, tmp_path: Path
) -> None:
    """Its files moved with the project's, whose settings alone were rewritten."""
    rival = tmp_path / "rival"
    rival.mkdir()
    settings = SETTINGS.replace('"pumps"', f'"pumps"\ntenant = "rival"\ndirectory = "{pumps.root / ".antiphon"}"')
    (rival / "antiphon.toml").write_text(settings + CREDENTIALS)
    (rival / "definitions.py").write_text(DEFINITIONS)
    (rival / "repairs.csv").write_text((pumps.root / "repairs.csv").read_text())
    with open_store(rival) as store, closing(FeaturePlatform(store)) as platform:
        apply(store, principal="rita")
        asyncio.run(run_refresh(store, platform))
    lake = servers.fresh()["lake"]
    assert pumps.migrate("--lake", lake).code == 0
    with pytest.raises(SetupError, match="The lake was moved to s3://"):
        Store.open(rival)
    (rival / "antiphon.toml").write_text(
        (rival / "antiphon.toml").read_text().replace("[features]\n", f'[features]\nlake = "{lake}"\n')
    )
    with open_store(rival) as store, closing(FeaturePlatform(store)) as platform:
        asyncio.run(run_refresh(store, platform))
    for tenant in ("third", "rival"):
        (rival / "antiphon.toml").write_text((settings + CREDENTIALS).replace('"rival"', f'"{tenant}"'))
        if tenant == "rival":
            assert pumps.migrate("--lake", "embedded").code == 0
        with open_store(rival) as store:  # One that had nothing there has not moved; the other is back.
            assert store.scope.tenant == tenant
