"""The mail client against servers that are slow, silent, or say no."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage

import pytest

from antiphon.core import outgoing
from antiphon.core.errors import InvalidInputError
from antiphon.core.mail_client import MailRefusedError, MailServer, deliver
from antiphon.core.tls import ClientTls

SECONDS = 0.5


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server on the loopback; its port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listening.accept()
                with contextlib.suppress(OSError), peer:
                    answer(peer)

    threading.Thread(target=accept, daemon=True).start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def mail() -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "a@example.com", "b@example.com", "c"
    made.set_content("d")
    return made


def sent(port: int, host: str = "127.0.0.1", security: str = "none") -> int:
    server = MailServer(host, port, security, None, None, ClientTls(), "[notifications.ops]", SECONDS)
    return deliver(server, mail(), ["b@example.com"])


@pytest.mark.parametrize("piece", [b"", b"2", b"220-x\r\n"], ids=["silence", "bytes", "lines"])
def test_one_deadline_covers_everything(piece: bytes) -> None:
    def drip(peer: socket.socket) -> None:
        until = time.monotonic() + 5
        while time.monotonic() < until:
            peer.sendall(piece)
            time.sleep(0.05)

    with serving(drip) as port:
        began = time.monotonic()
        with pytest.raises(OSError, match=r".*"):
            sent(port)
        assert time.monotonic() - began < SECONDS + 1


def test_a_server_that_sends_us_away_says_with_which_code() -> None:
    with serving(lambda peer: peer.sendall(b"421 too busy\r\n")) as port, pytest.raises(MailRefusedError) as refused:
        sent(port)
    assert (refused.value.code, refused.value.permanent) == (421, False)
    with serving(lambda peer: peer.sendall(b"554 go away\r\n")) as port, pytest.raises(MailRefusedError) as refused:
        sent(port)
    assert refused.value.permanent


def test_a_name_that_leads_to_a_metadata_service_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 587))]
    monkeypatch.setattr(outgoing.socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(InvalidInputError, match="not called"):
        sent(587, "mail.example.com", "starttls")


def test_without_tls_only_this_machine_is_spoken_to() -> None:
    with pytest.raises(InvalidInputError, match="clear text"):
        sent(25, "8.8.8.8")
