"""Who may speak to the event log's server: JWTs and nkeys on a real one, and what others are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.features.streaming.nats_world import Accounts, Signer, creds
from tests.servers import NatsProcess, until

from antiphon.core.errors import AntiphonError, InvalidInputError, SetupError
from antiphon.core.tls import ClientTls
from antiphon.features.streaming.nats_access import Access, Key, read_key
from antiphon.features.streaming.nats_server import NatsServer


@pytest.fixture(scope="module")
def accounts() -> Accounts:
    return Accounts()


@pytest.fixture(scope="module")
def guarded(accounts: Accounts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    with NatsProcess("-c", str(accounts.configuration(tmp_path_factory.mktemp("nats")))) as started:
        yield started


def answer(process: NatsProcess, access: Access) -> str:
    server = NatsServer(process.url, access, timeout=1.0)
    try:
        return server.describe()
    finally:
        server.close()


def test_a_user_whose_account_signed_for_it_is_let_in(guarded: NatsProcess, accounts: Accounts, tmp_path: Path) -> None:
    file = tmp_path / "writer.creds"
    file.write_text(accounts.credentials())
    assert answer(guarded, Access(file=file)).startswith("NATS 2.")
    assert answer(guarded, Access(text=accounts.credentials())).startswith("NATS 2.")


def test_whom_no_account_vouches_for_is_told_which_setting_to_look_at(
    guarded: NatsProcess, accounts: Accounts, tmp_path: Path
) -> None:
    stranger = accounts.credentials(by=Signer("A"))
    file = tmp_path / "stranger.creds"
    file.write_text(stranger)
    for access, field in (
        (Access(text=stranger), "log_credentials_variable"),
        (Access(file=file), "log_credentials to"),
        (Access(password="guessed"), "log_password_variable"),
        (Access(), "log_credentials"),
    ):
        with pytest.raises(SetupError, match="refuses access") as told:
            answer(guarded, access)
        assert field in str(told.value)
        assert read_key(stranger, "").seed not in str(told.value) + repr(access)


def test_credentials_that_end_are_told_by_their_date_and_read_again_once_replaced(
    guarded: NatsProcess, accounts: Accounts, tmp_path: Path
) -> None:
    file = tmp_path / "writer.creds"
    file.write_text(accounts.credentials(expires=1))
    server = NatsServer(guarded.url, Access(file=file), timeout=1.0)
    told: list[str] = []

    def refused() -> bool:
        try:
            server.describe()
        except SetupError as error:
            told.append(str(error))
        except AntiphonError:
            pass
        return bool(told)

    try:
        until(refused, 10)
        assert "the JWT ended at 20" in told[0]
        file.write_text(accounts.credentials())
        assert server.describe().startswith("NATS 2.")
    finally:
        server.close()


def test_an_nkey_that_the_server_knows_is_let_in_and_another_is_not(tmp_path: Path) -> None:
    known, other = Signer("U"), Signer("U")
    configuration = tmp_path / "nkeys.conf"
    configuration.write_text(f"authorization: {{ users: [ {{ nkey: {known.public} }} ] }}\n")
    process = NatsProcess("-c", str(configuration))
    process.start()
    try:
        assert answer(process, Access(text=known.seed + "\n")).startswith("NATS 2.")
        with pytest.raises(SetupError, match="refuses access"):
            answer(process, Access(text=other.seed))
    finally:
        process.remove()


def test_a_user_of_a_password_is_named_in_the_url(tmp_path: Path) -> None:
    process = NatsProcess("--user", "writer@one", "--pass", "s3cret")
    process.start()
    try:
        url = process.url.replace("://", "://writer%40one@")
        for password, told in (("s3cret", ""), ("other", "refuses access")):
            server = NatsServer(url, Access(password=password), timeout=1.0)
            try:
                found = server.describe() if not told else ""
                if told:
                    with pytest.raises(SetupError, match=told):
                        server.describe()
            finally:
                server.close()
            assert "writer" not in found + server.name
    finally:
        process.remove()


def test_what_are_no_credentials_is_said_before_anything_is_asked(accounts: Accounts, tmp_path: Path) -> None:
    whole = accounts.credentials()
    seed = Signer("U").seed
    changed = seed[:20] + ("A" if seed[20] != "A" else "B") + seed[21:]
    jwt = whole.splitlines()[1]
    for text, told in (
        ("", "not those of a NATS user"),
        ("hunter2", "not those of a NATS user"),
        (whole.replace("BEGIN NATS USER JWT", "BEGIN"), "not those of a NATS user"),
        (whole.replace("BEGIN USER NKEY", "BEGIN"), "not those of a NATS user"),
        (creds(jwt, Signer("A").seed), "not those of a NATS user"),
        (whole + "x" * 70_000, "not those of a NATS user"),
        (changed, "does not fit its checksum"),
        (creds(jwt, changed), "does not fit its checksum"),
    ):
        with pytest.raises(SetupError, match=told) as error:
            read_key(text, "[features] log_credentials_variable")
        assert "log_credentials_variable" in str(error.value)
        assert not text or text.strip() not in str(error.value)
    with pytest.raises(SetupError, match="cannot be read"):
        Access(file=tmp_path / "none").key()
    assert read_key(whole.replace("\n", "\r\n"), "").jwt == jwt


@pytest.mark.parametrize("claims", ["", "e30", "W10", "eyJleHAiOiJuZXZlciJ9", "eyJleHAiOjFlMzAwfQ", "é"])
def test_a_jwt_that_says_no_usable_end_has_none(claims: str, accounts: Accounts) -> None:
    from datetime import UTC, datetime

    assert Key("S", f"e30.{claims}.x").ended(datetime.now(UTC)) is None


@pytest.mark.parametrize(
    ("url", "access", "told"),
    [
        ("nats://h:1", Access(password="s3cret", text="x"), "more than one kind"),
        ("nats://me@h:1", Access(file=Path("x")), "more than one kind"),
        ("nats://h:1", Access(text="x", file=Path("x")), "more than one kind"),
        ("nats://h:1", Access(tls=ClientTls(Path("authority.pem"))), "does not ask for TLS"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(url: str, access: Access, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        NatsServer(url, access)
    assert "s3cret" not in repr(access)
