"""``antiphon encryption`` over a project, command by command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.harness.chaos_project import write_project
from typer.testing import CliRunner

from antiphon.cli.encryption import app
from antiphon.core.errors import AntiphonError, ConflictError, CorruptionError, SetupError
from antiphon.governance.encryption import keyring


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(keyring, "N", 2**10)
    monkeypatch.setenv("ANTIPHON_PASSPHRASE", "four random words here")
    return write_project(tmp_path / "project", "simulated").root


def set_mode(root: Path, mode: str) -> None:
    settings = root / "antiphon.toml"
    settings.write_text(settings.read_text().partition("\n[encryption]")[0] + f'\n[encryption]\nmode = "{mode}"\n')


def told(root: Path, *arguments: str) -> Any:
    ran = CliRunner().invoke(app, [*arguments, "--project", str(root), "--json"])
    if isinstance(ran.exception, AntiphonError):
        raise ran.exception
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout)


def said(root: Path, *arguments: str) -> str:
    ran = CliRunner().invoke(app, [*arguments, "--project", str(root)])
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_a_project_is_begun_rotated_and_checked(root: Path) -> None:
    set_mode(root, "encrypted")
    with pytest.raises(SetupError, match="antiphon encryption init"):
        told(root, "status")
    wrapping_key = told(root, "init")["wrapping_key"]
    with pytest.raises(ConflictError):
        told(root, "init")
    before = told(root, "status")
    assert (before["mode"], before["provider"], before["wrapping_key"]) == ("encrypted", "file", wrapping_key)
    (made,) = told(root, "rotate")["keys"]
    assert made not in {key["id"] for key in before["keys"]}
    assert told(root, "rewrap", "--new-key", "--reencrypt")["problems"] == []
    after = told(root, "status")
    assert after["wrapping_key"] != wrapping_key
    assert {key["state"] for key in after["keys"] if key["purpose"] == "payload"} == {"active", "retired"}
    assert told(root, "check")["problems"] == []
    assert made in said(root, "status")


def test_plaintext_is_said_and_a_project_goes_both_ways(root: Path) -> None:
    set_mode(root, "plaintext")
    assert "ENCRYPTION IS OFF" in said(root, "status")
    set_mode(root, "encrypted")
    keyring.create(root / ".antiphon" / "keys" / "keyring.json", "four random words here")
    assert told(root, "enable")["mode"] == "encrypted"
    assert "encrypted" in said(root, "status")
    set_mode(root, "plaintext")
    assert "plaintext" in said(root, "disable")


def test_what_does_not_open_is_listed_and_told_by_the_exit_code(root: Path) -> None:
    set_mode(root, "encrypted")
    told(root, "init")
    lake = root / ".antiphon" / "lake" / "default" / "dev" / "ab"
    lake.mkdir(parents=True)
    (lake / f"{'ab' * 32}.parquet").write_bytes(b"not sealed")
    with pytest.raises(CorruptionError, match="1 payloads or files do not open"):
        told(root, "check")
