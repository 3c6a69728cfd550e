"""What all tests share."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path

import httpcore2
import hypothesis
import psutil
import pytest
import typer.main
import typer.testing
from sqlalchemy.engine import Connection

from antiphon.catalog import migration, schema

# Files of tests run side by side: beside busy ones a worker at its usual nice value would starve for minutes.
os.environ.setdefault("ANTIPHON_WORKER__NICE", "0")

# How long an example takes is the machine's matter.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# Typer reads the annotations of all of the program's commands anew whenever it is called, which takes 0.1 s.
typer.testing._get_command = cache(typer.main.get_command)

# Each client reads all authorities of the machine anew, 25 ms of a processor, also one that never speaks TLS.
httpcore2.default_ssl_context = cache(httpcore2.default_ssl_context)

# The longest files that stand late in the order of folders: one that begins last is played while other workers idle.
_FIRST = ("test_seeds.py",)

_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 6 * 2**30
"""Free in memory and in its file system, if folders of tests are to be there."""

_Statements = tuple[tuple[str, tuple[object, ...]], ...]


def _own_folder() -> Path:
    return _MEMORY / f"antiphon-tests-{os.getuid()}-{os.getpid()}"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Has tests write into memory where there is enough: a tenth of their time was the disk's. Folders of tests that
    passed are removed at once (``tmp_path_retention_policy``), those of others with the next run."""
    if config.option.basetemp is not None:  # A worker of xdist, or somebody's choice.
        return
    free = min(shutil.disk_usage(_MEMORY).free if _MEMORY.is_dir() else 0, psutil.virtual_memory().available)
    if free < _MEMORY_BYTES:
        return
    for old in _MEMORY.glob(f"{_own_folder().name.rpartition('-')[0]}-*"):
        if not psutil.pid_exists(int(old.name.rpartition("-")[2])):
            shutil.rmtree(old, ignore_errors=True)
    config.option.basetemp = _own_folder()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(exitstatus: int) -> None:
    """Leaves nothing in memory of a run whose tests passed."""
    if exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(_own_folder(), ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _FIRST)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while modules are imported: hardly any is made, and looking for it takes a tenth of it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Leave what is loaded by now out of garbage collections, which take a tenth of the time otherwise."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(scope="session", autouse=True)
def new_files_from_known_statements() -> Iterator[None]:
    """Makes catalogs in empty files by the statements that the migration made the first one with.

    Thousands of tests make one, and Alembic and SQLAlchemy take 60 ms to find the same text each time.
    """
    known: dict[tuple[str, str], _Statements] = {}
    migrate = migration.upgrade

    def upgrade(connection: Connection, back_up: Callable[[str], str]) -> None:
        if connection.dialect.name != "sqlite" or _tables(connection):
            migrate(connection, back_up)
            return
        version = str(migration.MIGRATIONS), schema.REVISION
        if version not in known:
            migrate(connection, back_up)
            known[version] = _statements(connection)
            return
        for statement, parameters in known[version]:
            connection.exec_driver_sql(statement, parameters)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(migration, "upgrade", upgrade)
        yield


def _tables(connection: Connection) -> list[str]:
    """What makes the tables and indexes, in the order in which they were made."""
    made = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid").scalars()
    return list(made)


def _statements(connection: Connection) -> _Statements:
    revisions = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars()
    stamps = (("INSERT INTO alembic_version VALUES (?)", (revision,)) for revision in revisions)
    return (*((statement, ()) for statement in _tables(connection)), *stamps)
