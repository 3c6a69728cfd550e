"""What holds for all repositories of the catalog: each has a contract test, and none knows which database it is on."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import antiphon
from antiphon import catalog

SOURCE = Path(antiphon.__file__).parent
CONTRACT = Path(__file__).parent

NO_REPOSITORIES = {
    "CheckProgress": "a row that sealed columns keep",
    "SealedRows": "the documents of other repositories",
}
"""Classes over a database that keep nothing of their own, and where they are tested."""

ONE_DATABASE = {f"catalog/{name}.py" for name in ("dialect", "sqlite_file", "postgres_server", "notify_channel")}
"""Modules that may know which database they speak to."""

PLAIN = {"catalog/moves.py": 2, "catalog/database.py": 4}
"""How often a module passes a statement to the driver as it is: one text for both, in every transaction."""


def repositories() -> dict[str, Path]:
    """Classes of the catalog, and of rooms that keep rows of their own, that take a database."""
    found = {}
    for folder in (Path(catalog.__file__).parent, SOURCE / "governance" / "encryption"):
        for file in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ClassDef) and "database: Database" in _signature(node):
                    found[node.name] = file
    return found


def _signature(node: ast.ClassDef) -> str:
    made = (each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__")
    return "".join(ast.unparse(each.args) for each in made)


def test_every_repository_has_a_contract_test_on_both_databases() -> None:
    tested = "".join(text for file in CONTRACT.rglob("test_*.py") if "database: Database" in (text := file.read_text()))
    known = repositories()
    assert len(known) > 25
    missing = {name for name in known if not re.search(rf"\b{name}\(", tested)}
    assert missing == set(NO_REPOSITORIES)


def test_no_second_dialect_is_spoken_outside_the_catalogs_own_module() -> None:
    spoken = re.compile(r"sqlalchemy\.dialects|\.dialect\.|\.dialect\b(?! import)|exec_driver_sql|drivername")
    found = {}
    for file in SOURCE.rglob("*.py"):
        name = file.relative_to(SOURCE).as_posix()
        lines = [line for line in file.read_text().splitlines() if not line.startswith("from antiphon.")]
        if name not in ONE_DATABASE and (times := sum(bool(spoken.search(line)) for line in lines)):
            found[name] = times
    assert found == PLAIN
