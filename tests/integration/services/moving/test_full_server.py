"""A project moves to a PostgreSQL server whose disk is full: told, nothing of the project touched, gone on with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.harness.moved_project import PLACES, RECORDS
from tests.integration.services.moving.test_project import Pumps
from tests.pentest.test_full_disk import small_disk
from tests.servers import PostgresProcess

from antiphon.core.errors import StorageFullError
from antiphon.services.moving.catalog import MovedTable, digests
from antiphon.services.project.store import open_store

TEXTS, TEXT_BYTES = 40, 250_000


def hashes(root: Path) -> tuple[MovedTable, ...]:
    with open_store(root) as store:
        return digests(store.database, (*PLACES, *RECORDS))


def test_a_move_to_a_full_server_is_told_and_goes_on_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PostgresProcess() as server, small_disk(server.folder / "disk", 10) as disk:
        monkeypatch.setenv("MOVED_PASSWORD", server.password)
        if os.geteuid() == 0:
            shutil.chown(disk, "postgres", "postgres")
        server.run(f"CREATE TABLESPACE small LOCATION '{disk}'", "CREATE DATABASE grown TABLESPACE small")
        pumps = Pumps(tmp_path / "pumps")
        with open_store(pumps.root) as store:
            store.audit.append(store.scope, "ann", "key.create", "key_1")
            for _ in range(TEXTS):
                store.blobs.put(store.scope, os.urandom(TEXT_BYTES))
        before, settings = hashes(pumps.root), (pumps.root / "antiphon.toml").read_text()
        there = ["--catalog", server.url.replace("/postgres", "/grown")]
        # No room for the tables, then none for all rows.
        for megabytes in (10, 17):
            subprocess.run(["mount", "-o", f"remount,size={megabytes}m", str(disk)], check=True)
            refused = pumps.migrate(*there)
            assert refused.code == StorageFullError.exit_code, (megabytes, refused.out)
            assert "The PostgreSQL server's disk is full" in refused.err
            assert (hashes(pumps.root), (pumps.root / "antiphon.toml").read_text()) == (before, settings)
        subprocess.run(["mount", "-o", "remount,size=80m", str(disk)], check=True)
        moved = pumps.migrate(*there, "--json")
        assert moved.code == 0, moved.err
        (part,) = json.loads(moved.out)["parts"]
        assert 0 < part["moved"] < part["items"], "the rows for which there was room stayed there"
        assert hashes(pumps.root) == before
        server.run("DROP DATABASE grown WITH (FORCE)", "DROP TABLESPACE small")
