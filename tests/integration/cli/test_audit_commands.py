"""``antiphon audit`` as a user runs it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from tests.integration.cli.conftest import Run

from antiphon.catalog.ledger import MeteredUsage
from antiphon.services.project.store import Store


def test_the_life_of_a_log(antiphon: Run, project: Path, tmp_path: Path) -> None:
    made = antiphon("keys", "create", "robot", "--role", "viewer", "--json").json()
    asked = antiphon("audit", "query", "--action", "key.create", "--json").json()
    record = next(one for one in asked if one["subject"] == made["record"]["id"])
    assert record["detail"]["role"] == "viewer"
    assert "key.create" in antiphon("audit", "query", "--limit", "5").out

    key = antiphon("audit", "key").out.strip()
    verifier, exported = tmp_path / "verify.py", tmp_path / "export.jsonl"
    verifier.write_text(antiphon("audit", "verifier").out)
    signed = antiphon("audit", "checkpoint").out
    kept = tmp_path / "kept"
    kept.write_text(signed)
    assert antiphon("audit", "export", str(exported), "--json").json()["key"] == key
    proof = antiphon("audit", "prove", str(record["sequence"]))
    (tmp_path / "proof.json").write_text(proof.out)
    witness = project / ".antiphon" / "witness" / "checkpoints"
    for file in (exported, tmp_path / "proof.json"):
        command = [sys.executable, "-I", str(verifier), str(file), "--key", key, "--witness", str(witness)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "everything holds" in done.stdout

    made = antiphon("audit", "rotate-key", "--reason", "it is a year old", "--json").json()
    assert (made["earlier"], antiphon("audit", "key").out.strip()) == ([key], made["key"])
    assert antiphon("audit", "key", "--earlier").out.split() == [key, made["key"]]
    antiphon("audit", "export", str(exported))
    command = [sys.executable, "-I", str(verifier), str(exported), "--key", key, "--witness", str(witness)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "1 earlier keys handed over" in done.stdout, done.stdout + done.stderr

    sound = antiphon("audit", "verify", "--checkpoint", str(kept), "--json")
    assert sound.code == 0, sound.err
    assert sound.json()["sound"] is True
    with closing(Store.open(project)) as store, store.database.transaction():
        store.ledger.add_with_commit(store.scope, [MeteredUsage("worker", 7, application="desk", principal="robot")])
    budget = ("budgets", "set", "robots", "--key", "robot", "--limit", "5", "--reason", "a test")
    assert antiphon(*budget).code == 0
    refused = antiphon("audit", "erase", "robot", "--reason", "asked for it")
    assert (refused.code, "The budget robots is of the keys of robot" in refused.err) == (5, True)
    assert antiphon("budgets", "remove", "robots", "--reason", "gone").code == 0
    spent = antiphon("cost", "show", "--by", "resource", "--json").json()["total"]
    erased = antiphon("audit", "erase", "robot", "--reason", "asked for it", "--json").json()
    assert (erased["erased"] >= 1, erased["ledger"]) == (True, 1)
    assert antiphon("cost", "show", "--by", "resource", "--json").json()["total"] == spent
    assert "robot" not in antiphon("cost", "show", "--by", "principal", "--json").out
    assert antiphon("audit", "verify").code == 0

    catalog = project / ".antiphon" / "catalog.db"
    with closing(sqlite3.connect(catalog)) as connection:
        connection.execute("UPDATE audit_entries SET action = 'key.revoke' WHERE sequence = ?", (record["sequence"],))
        connection.commit()
    try:
        wrong = antiphon("audit", "verify")
        assert wrong.code == 1
        assert f"the first wrong record is {record['sequence']}" in wrong.err
    finally:
        with closing(sqlite3.connect(catalog)) as connection:
            connection.execute(
                "UPDATE audit_entries SET action = 'key.create' WHERE sequence = ?", (record["sequence"],)
            )
            connection.commit()
    assert antiphon("audit", "verify", "--witness", str(witness)).code == 0


def test_what_cannot_be_is_said(antiphon: Run, tmp_path: Path) -> None:
    for arguments, code in (
        (("prove",), 2),
        (("prove", "3", "--prediction", "pred_1"), 2),
        (("prove", "999999"), 3),
        (("prove", "--prediction", "pred_none"), 3),
        (("query", "--from", "soon"), 2),
        (("export", str(tmp_path / "x"), "--from", "2100-01-01T00:00Z"), 2),
        (("verify", "--witness", str(tmp_path / "gone")), 3),
        (("verify", "--checkpoint", str(tmp_path / "gone")), 3),
        (("query", "--tenant", "No Tenant"), 2),
    ):
        ran = antiphon("audit", *arguments, "--json") if arguments[0] != "prove" else antiphon("audit", *arguments)
        assert ran.code == code, (arguments, ran.err)
        assert "Traceback" not in ran.err
    (tmp_path / "no-checkpoint").write_text("nonsense")
    assert antiphon("audit", "verify", "--checkpoint", str(tmp_path / "no-checkpoint")).code == 2
    other = antiphon("audit", "query", "--tenant", "other", "--json")
    assert json.loads(other.out) == []
