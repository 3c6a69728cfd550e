"""Notifications by mail to a real server: over TLS or not at all, with a password, and again until taken."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.harness.ports import free_port
from tests.integration.services.notifications.receivers import MailReceiver, deliver, project, say

from antiphon.core.errors import InvalidInputError, SetupError, UnavailableError
from antiphon.governance.certificates.authority import AUTHORITY, SERVER, SERVER_KEY, CertificateSpec, init
from antiphon.services.notifications.delivery import NotificationSender
from antiphon.services.project.store import Store

MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return init(tmp_path_factory.mktemp("tls"), CertificateSpec(("localhost",), ("127.0.0.1",)), datetime.now(UTC))


@pytest.fixture
def context(certificates: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificates / SERVER, certificates / SERVER_KEY)
    return made


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Callable[..., MailReceiver]]:
    made: list[MailReceiver] = []

    def start(**options: Any) -> MailReceiver:
        made.append(MailReceiver(**options))
        return made[-1]

    yield start
    for one in made:
        one.close()


@contextmanager
def channel(
    folder: Path, port: int, security: str = "none", more: str = "", host: str = "localhost"
) -> Iterator[Store]:
    """A project with a channel of mail to this port."""
    store = project(
        folder,
        f'[notifications.ops]\nkind = "smtp"\nhost = "{host}"\nport = {port}\nsecurity = "{security}"\n'
        f'sender = "antiphon@example.com"\n{more or RECIPIENT}\n',
    )
    try:
        yield store
    finally:
        store.close()


RECIPIENT = 'recipients = ["ops@example.com"]'


async def test_a_beginning_and_its_end_are_two_mails_of_one_thread(
    tmp_path: Path, server: Callable[..., MailReceiver]
) -> None:
    taking = server()
    with channel(tmp_path, taking.port) as store:
        began = say(
            store, "a", title="desk burns\r\nBcc: evil@example.com", text="14 times too fast.\n.\nMore."
        ).started_at
        await deliver(store)
        store.notifications.resolve(store.scope, "a", began + 7 * MINUTE, "fast again")
        await deliver(store)
    first, over = taking.mails
    assert first["subject"] == "[antiphon dev] CRITICAL: desk burns Bcc: evil@example.com"
    assert over["subject"] == "[antiphon dev] RESOLVED: desk burns Bcc: evil@example.com"
    assert "14 times too fast.\n.\nMore." in first.get_content().replace("\r\n", "\n"), "a line of one dot ends nothing"
    assert over["in-reply-to"] == first["message-id"]
    assert [one.rcpt_tos for one in taking.envelopes] == [["ops@example.com"]] * 2


async def test_one_that_is_busy_gets_it_later_with_the_same_id_and_one_that_refuses_does_not(
    tmp_path: Path, server: Callable[..., MailReceiver]
) -> None:
    taking = server()
    taking.answer = "451 come again: private reason"
    with channel(tmp_path, taking.port) as store:
        say(store, "a")
        await deliver(store, lambda: any(run.attempts > 1 for run in store.runs.list(store.scope)))
        taking.answer = "250 taken"
        await deliver(store)
        assert len(taking.mails) == 1
        taking.answer = "554 spam: private reason"
        say(store, "b")
        await deliver(store)
        (b, a) = NotificationSender(store).log(None, 10)
        assert ((a.status, a.answer), (b.status, b.attempts)) == (("sent", "250"), ("failed", 1))
        assert "answered 554" in (b.error or "")
        assert "private" not in f"{NotificationSender(store).log(None, 10)}"


def test_a_recipient_that_is_gone_keeps_no_other_from_it(tmp_path: Path, server: Callable[..., MailReceiver]) -> None:
    taking = server()
    more = 'recipients = ["gone@example.com", "ops@example.com"]'
    with channel(tmp_path, taking.port, more=more) as store:
        assert NotificationSender(store).test("ops") == "250, but for 1 of 2 recipients"
    with (
        channel(tmp_path, taking.port, more='recipients = ["gone@example.com"]') as store,
        pytest.raises(InvalidInputError, match="answered 550"),
    ):
        NotificationSender(store).test("ops")


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_user_and_password_go_over_tls(
    security: str, tmp_path: Path, server: Callable[..., MailReceiver], context: ssl.SSLContext, certificates: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from aiosmtpd.smtp import AuthResult, LoginPassword

    def authenticator(smtp: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        return AuthResult(success=(data.login, data.password) == (b"ann", b"right"), handled=False)

    over = {"tls_context": context, "require_starttls": True} if security == "starttls" else {"ssl_context": context}
    taking = server(
        authenticator=authenticator,
        auth_required=security == "starttls",
        auth_require_tls=security == "starttls",
        **over,
    )
    more = f'{RECIPIENT}\nuser = "ann"\npassword_variable = "MAIL_PASSWORD"\nauthority = "{certificates / AUTHORITY}"'
    with channel(tmp_path, taking.port, security, more) as store:
        monkeypatch.setenv("MAIL_PASSWORD", "right")
        assert NotificationSender(store).test("ops") == "250"
        monkeypatch.setenv("MAIL_PASSWORD", "a wrong one")
        with pytest.raises(SetupError, match="user and password: 535") as refused:
            NotificationSender(store).test("ops")
        assert "wrong" not in str(refused.value)
        monkeypatch.delenv("MAIL_PASSWORD")
        with pytest.raises(SetupError, match="MAIL_PASSWORD"):
            NotificationSender(store).test("ops")
    assert len(taking.mails) == 1


def test_nothing_is_sent_to_a_server_without_tls_or_with_a_foreign_certificate(
    tmp_path: Path, server: Callable[..., MailReceiver], context: ssl.SSLContext
) -> None:
    plain, foreign = server(), server(tls_context=context, require_starttls=True)
    with channel(tmp_path, plain.port, "starttls") as store, pytest.raises(SetupError, match="does not offer"):
        NotificationSender(store).test("ops")
    with channel(tmp_path, foreign.port, "starttls") as store, pytest.raises(UnavailableError, match="certificate"):
        NotificationSender(store).test("ops")
    assert plain.mails == foreign.mails == []


def test_clear_text_and_addresses_that_are_not_called_are_refused(tmp_path: Path) -> None:
    with channel(tmp_path, 25, host="8.8.8.8") as store, pytest.raises(InvalidInputError, match="clear text"):
        NotificationSender(store).test("ops")
    for host in ("169.254.169.254", "0xa9fea9fe", "0.0.0.0"):
        with (
            channel(tmp_path, 587, "starttls", host=host) as store,
            pytest.raises(InvalidInputError, match="not called"),
        ):
            NotificationSender(store).test("ops")


def test_a_server_that_is_away_is_said(tmp_path: Path) -> None:
    with channel(tmp_path, free_port()) as store, pytest.raises(UnavailableError, match="Connection refused"):
        NotificationSender(store).test("ops")
