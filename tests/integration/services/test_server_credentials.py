"""A project whose servers ask who it is: credentials and certificates as its settings name them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.integration.features.streaming.nats_world import Accounts
from tests.integration.features.test_server_tls import Authority, RedisOverTls
from tests.servers import NatsProcess
from typer.testing import CliRunner

from antiphon.catalog.features.events import Event
from antiphon.cli.main import assemble
from antiphon.services.project.store import Store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTINGS = """[features]
log = "tls://localhost:{log}"
log_credentials = "secrets/writer.creds"
log_authority = "secrets/authority.crt"
log_client_certificate = "secrets/antiphon.crt"
log_client_key = "secrets/antiphon.key"
online = "rediss://localhost:{online}/0"
online_authority = "secrets/authority.crt"
online_client_certificate = "secrets/antiphon.crt"
online_client_key = "secrets/antiphon.key"
"""


@pytest.fixture(scope="module")
def accounts() -> Accounts:
    return Accounts()


@pytest.fixture(scope="module")
def root(accounts: Accounts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project beside a NATS server with accounts and a Valkey, both of which ask for a certificate."""
    root = tmp_path_factory.mktemp("project")
    (root / "secrets").mkdir()
    authority = Authority(root / "secrets")
    authority.files("antiphon")
    certificate, key = map(str, authority.files("server"))
    trusted = str(authority.file)
    nats = NatsProcess(
        "-c", str(accounts.configuration(root)),
        "--tls", "--tlscert", certificate, "--tlskey", key, "--tlscacert", trusted, "--tlsverify",
    )  # fmt: skip
    valkey = RedisOverTls(
        "valkey-server", "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", trusted,
        "--tls-auth-clients", "yes",
    )  # fmt: skip
    (root / "definitions.py").write_text("")
    (root / "antiphon.toml").write_text(SETTINGS.format(log=nats.port, online=valkey.port))
    try:
        nats.start()
        valkey.start()
        yield root
    finally:
        nats.remove()
        valkey.remove()


@pytest.fixture(autouse=True)
def credentials(root: Path, accounts: Accounts) -> None:
    (root / "secrets" / "writer.creds").write_text(accounts.credentials())


def stores(root: Path) -> dict[str, object]:
    found = CliRunner().invoke(assemble(), ["doctor", "--project", str(root), "--json"])
    return next(line for line in json.loads(found.stdout) if line["check"] == "stores")


def test_files_are_relative_to_the_project_and_everything_answers(root: Path) -> None:
    line = stores(root)
    assert line["problem"] is None, line
    assert "Valkey" in str(line) and "rediss://localhost" in str(line)  # noqa: PT018
    assert "NATS 2." in str(line) and "tls://localhost" in str(line)  # noqa: PT018
    store = Store.open(root)
    try:
        assert store.events.append(store.scope, "orders", [Event("one", NOON, NOON, {"n": 1})]) == 1
        assert store.events.read(store.scope, "orders", 0, 9)[0].event.payload == {"n": 1}
    finally:
        store.close()


def test_what_is_wrong_is_told_by_the_setting_and_never_by_the_secret(
    root: Path, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = root / "secrets" / "writer.creds"
    whole = file.read_text()
    seed = whole.split("SEED-----\n")[1].split("\n")[0]
    with monkeypatch.context() as other:
        other.setenv("ANTIPHON_FEATURES__ONLINE_AUTHORITY", "secrets/none.crt")
        assert "none.crt" in str(stores(root))
    file.write_text(accounts.credentials(expires=-60))
    assert "the JWT ended at" in str(stores(root))
    file.write_text(whole.replace(seed, seed[:-1]))
    assert "not those of a NATS user" in str(stores(root))
    assert seed[:-1] not in str(stores(root))
    file.unlink()
    assert "cannot be read" in str(stores(root))
    monkeypatch.setenv("ANTIPHON_FEATURES__LOG_CREDENTIALS_VARIABLE", "NATS_WRITER")
    assert "NATS_WRITER is not set" in str(stores(root))
    monkeypatch.setenv("NATS_WRITER", whole)
    assert "more than one kind" in str(stores(root))
