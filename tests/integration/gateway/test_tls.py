"""TLS of the gateway, over real sockets: who is refused, what is told, and what a rotation does to connections."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.gateway.tls_world import DAY, Issued, Served, ask, issue, serve_tls, shown, trusting

from antiphon.core.clock import ManualClock, SystemClock
from antiphon.core.errors import SetupError
from antiphon.gateway.http import transport_security
from antiphon.gateway.http.transport_security import TlsFiles, TransportSecurity
from antiphon.governance.certificates import authority as certificates
from antiphon.governance.certificates.checks import described

REFUSED = (ssl.SSLError, ConnectionError)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project's own authority."""
    certificates.init(tmp_path / "tls", certificates.CertificateSpec(), datetime.now(UTC))
    return tmp_path / "tls"


def files(folder: Path, *, mutual: bool = False, client_ca: Path | None = None) -> TlsFiles:
    current = folder / "current"
    ca = client_ca or (current / "authority.crt" if mutual else None)
    return TlsFiles(current / "server.crt", current / "server.key", ca, mutual or client_ca is not None)


def own(folder: Path, client: bool = False) -> ssl.SSLContext:
    current = folder / "current"
    pair = (current / "client.crt", current / "client.key") if client else None
    return trusting(current / "authority.crt", client=pair)


def body(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


async def until(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


async def test_tls_13_is_spoken_and_12_too(folder: Path) -> None:
    async with serve_tls(files(folder)) as served:
        assert body(await ask(served.port, own(folder))) == {"scheme": "https", "version": "TLSv1.3", "peer": None}
        older = own(folder)
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        assert body(await ask(served.port, older))["version"] == "TLSv1.2"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("accepted", [False, True])
async def test_tls_11_is_refused(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, accepted: bool
) -> None:
    if accepted:  # the defence switched off: the same client gets its answer
        made = transport_security._context

        def lax(*arguments: Any) -> ssl.SSLContext:
            context = made(*arguments)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.set_ciphers("ALL:@SECLEVEL=0")
            return context

        monkeypatch.setattr(transport_security, "_context", lax)
    old = own(folder)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    async with serve_tls(files(folder)) as served:
        if accepted:
            assert body(await ask(served.port, old))["version"] == "TLSv1.1"
            return
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):  # the alert arrives: the client hears why
            await ask(served.port, old)
    assert "it offers no version of TLS that is accepted here" in caplog.text


async def test_plain_http_on_the_tls_port_is_told_to_use_https(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serve_tls(files(folder)) as served:
        answer = await ask(served.port, None, path="/?key=ak_planted")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"https://" in answer
    assert "it spoke plain HTTP to the TLS port" in caplog.text
    assert "planted" not in caplog.text


async def test_what_is_no_tls_at_all_is_closed_and_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serve_tls(files(folder)) as served:
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(b"\x00\x01\x02planted" * 20)
            writer.write_eof()
            async with asyncio.timeout(10):
                await reader.read()
            writer.close()
        assert body(await ask(served.port, own(folder)))["scheme"] == "https"
    lines = [line for line in caplog.messages if "refused" in line]
    assert 1 <= len(lines) <= 2, "one line a second for each reason"
    assert "planted" not in caplog.text


@pytest.mark.parametrize("case", ["foreign", "wrong name", "expired", "not yet valid"])
@pytest.mark.parametrize("checked", [True, False])
async def test_a_client_refuses_what_it_should_not_accept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, checked: bool
) -> None:
    """Our own client, against a server whose own checks are off: it shows whatever it has."""
    monkeypatch.setattr(transport_security, "require_pair", _unchecked)
    authority, other = issue("authority", authority=True), issue("other", authority=True)
    leaf = {
        "foreign": lambda: issue("gateway", other),
        "wrong name": lambda: issue("gateway", authority, names=("elsewhere.example",)),
        "expired": lambda: issue("gateway", authority, begins=-2 * DAY, ends=-DAY),
        "not yet valid": lambda: issue("gateway", authority, begins=DAY, ends=2 * DAY),
    }[case]()
    certificate, key = leaf.write(tmp_path, "server")
    async with serve_tls(TlsFiles(certificate, key)) as served:
        if not checked:
            assert body(await ask(served.port, trusting(authority, verify=False)))["scheme"] == "https"
            return
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(served.port, trusting(authority))


def _unchecked(certificate: bytes, key: bytes, now: datetime, where: str) -> Any:
    from cryptography import x509

    return described(x509.load_pem_x509_certificates(certificate)[0])


def _bad(case: str, authority: Issued, good: Issued) -> tuple[bytes, bytes]:
    """Certificate and key of a rotation that went wrong."""
    if case == "expired":
        made = issue("gateway", authority, begins=-2 * DAY, ends=-DAY)
        return made.pem, made.key_pem
    if case == "not yet valid":
        made = issue("gateway", authority, begins=DAY, ends=2 * DAY)
        return made.pem, made.key_pem
    other = issue("gateway", authority)
    return {
        "swapped": (other.pem, good.key_pem),
        "half-written": (other.pem[:200], other.key_pem),
        "empty": (b"", other.key_pem),
        "no key": (other.pem, b"not a key"),
    }[case]


@pytest.mark.parametrize("case", ["expired", "not yet valid", "swapped", "half-written", "empty", "no key"])
async def test_a_broken_rotation_changes_nothing_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    authority = issue("authority", authority=True)
    good = issue("gateway", authority)
    certificate, key = good.write(tmp_path, "server")
    async with serve_tls(TlsFiles(certificate, key)) as served:
        before = await shown(served.port)
        new_certificate, new_key = _bad(case, authority, good)
        certificate.write_bytes(new_certificate)
        key.write_bytes(new_key)
        await until(lambda: "is not taken over" in caplog.text)
        assert await shown(served.port) == before
        ready = await ask(served.port, trusting(authority), path="/readyz")
        assert b" 200 " in ready.splitlines()[0], "it serves on"
        assert "is not taken over" in body(ready)["notices"]["certificate"]
        assert caplog.text.count("is not taken over") == 1

        mended = issue("gateway", authority)
        mended.write(tmp_path, "server")
        await until(lambda: served.transport.notice() is None or "taken over" not in served.transport.notice())
        assert await shown(served.port) == described(mended.certificate).fingerprint
        assert body(await ask(served.port, trusting(authority)))["scheme"] == "https"


async def test_without_its_check_an_expired_rotation_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defence switched off: what the test above looks for does happen."""
    authority = issue("authority", authority=True)
    certificate, key = issue("gateway", authority).write(tmp_path, "server")
    async with serve_tls(TlsFiles(certificate, key)) as served:
        monkeypatch.setattr(transport_security, "require_pair", _unchecked)
        expired = issue("gateway", authority, begins=-2 * DAY, ends=-DAY)
        expired.write(tmp_path, "server")
        async with asyncio.timeout(5):
            while await shown(served.port) != described(expired.certificate).fingerprint:
                await asyncio.sleep(0.02)
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(served.port, trusting(authority))


@pytest.mark.parametrize("key_checked", [True, False])
def test_the_key_of_another_certificate_is_found_before_openssl_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key_checked: bool
) -> None:
    first, second = issue("gateway"), issue("gateway")
    certificate, key = first.write(tmp_path, "server")
    key.write_bytes(second.key_pem)
    if not key_checked:  # OpenSSL is the second line of defence
        monkeypatch.setattr(transport_security, "require_pair", _unchecked)
    with pytest.raises(SetupError, match="another certificate" if key_checked else "KEY_VALUES_MISMATCH"):
        TransportSecurity(TlsFiles(certificate, key), SystemClock())


def test_a_clock_that_is_behind_is_named_as_the_possible_reason(folder: Path) -> None:
    behind = ManualClock(datetime.now(UTC) - timedelta(days=400))
    with pytest.raises(SetupError, match="not valid yet, or the clock is behind"):
        TransportSecurity(files(folder), behind)


def test_a_certificate_that_expires_while_it_is_served_makes_the_gateway_unready(folder: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    transport = TransportSecurity(files(folder), clock)
    assert (transport.part(), transport.notice()) == (None, None)
    clock.advance(timedelta(days=80))
    assert transport.part() is None
    assert "ends in 10 days" in (transport.notice() or "")
    clock.advance(timedelta(days=11))
    assert "expired" in (transport.part() or "")


async def test_a_verified_client_names_its_principal(folder: Path) -> None:
    async with serve_tls(files(folder, mutual=True)) as served:
        answer = body(await ask(served.port, own(folder, client=True)))
        assert answer == {"scheme": "https", "version": "TLSv1.3", "peer": ["default", "operator"]}


@pytest.mark.parametrize("case", ["none", "self-signed", "foreign", "expired", "not yet valid", "a server's"])
@pytest.mark.parametrize("checked", [True, False])
async def test_clients_that_nobody_vouches_for_are_refused(
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    checked: bool,
) -> None:
    authority, other = issue("clients", authority=True), issue("other", authority=True)
    (tmp_path / "clients.crt").write_bytes(authority.pem)
    shown_by_client = {
        "none": None,
        "self-signed": issue("operator"),
        "foreign": issue("operator", other),
        "expired": issue("operator", authority, begins=-2 * DAY, ends=-DAY),
        "not yet valid": issue("operator", authority, begins=DAY, ends=2 * DAY),
        "a server's": None,
    }[case]
    pair = None if shown_by_client is None else shown_by_client.write(tmp_path, "client")
    if case == "a server's":
        pair = (folder / "current" / "server.crt", folder / "current" / "server.key")
    client = trusting(folder / "current" / "authority.crt", client=pair)
    # A server certificate of the very authority that vouches for clients is no client's.
    vouching = folder / "current" / "authority.crt" if case == "a server's" else tmp_path / "clients.crt"
    if not checked:
        monkeypatch.setattr(TransportSecurity, "_verify_mode", lambda self: ssl.CERT_NONE)
    async with serve_tls(files(folder, client_ca=vouching)) as served:
        if not checked:
            assert body(await ask(served.port, client))["peer"] is None
            return
        with pytest.raises(REFUSED):
            await ask(served.port, client)
        await until(lambda: "A client was refused" in caplog.text)
    assert ("it showed no certificate" if case == "none" else "its certificate is not accepted") in caplog.text


async def test_mutual_tls_is_13_alone_and_resumes_nothing(folder: Path) -> None:
    async with serve_tls(files(folder, mutual=True)) as served:
        older = own(folder, client=True)
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(REFUSED):
            await ask(served.port, older)
        assert await asyncio.to_thread(_session, served.port, own(folder, client=True)) is False
    async with serve_tls(files(folder)) as served:
        assert await asyncio.to_thread(_session, served.port, own(folder)) is True, "without mutual TLS it may"


def _session(port: int, context: ssl.SSLContext) -> bool:
    """Whether the server gave out a ticket to come back with."""
    import socket

    with (
        socket.create_connection(("127.0.0.1", port), 5) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        connection.recv(1000)
        return connection.session is not None and connection.session.has_ticket


async def test_a_changed_clients_authority_ends_what_the_old_one_vouched_for(folder: Path, tmp_path: Path) -> None:
    first, second = issue("first", authority=True), issue("second", authority=True)
    vouching = tmp_path / "clients.crt"
    vouching.write_bytes(first.pem)
    old = trusting(folder / "current" / "authority.crt", client=issue("old", first).write(tmp_path, "old"))
    new = trusting(folder / "current" / "authority.crt", client=issue("new", second).write(tmp_path, "new"))
    async with serve_tls(files(folder, client_ca=vouching)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=old, server_hostname="localhost")
        writer.write(b"GET /slowly HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await reader.readuntil(b"part\n")
        vouching.write_bytes(second.pem)
        async with asyncio.timeout(5):
            rest = await reader.read()  # the answer under way is finished, then the connection ends
        assert rest.count(b"part") == 19
        writer.close()
        with pytest.raises(REFUSED):
            await ask(served.port, old)
        assert body(await ask(served.port, new))["peer"] == ["default", "new"]


async def test_a_rotation_leaves_open_connections_alone(folder: Path) -> None:
    async with serve_tls(files(folder)) as served:
        trusted = own(folder)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", served.port, ssl=trusted, server_hostname="localhost"
        )
        for authority in (False, True, False):
            writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await reader.readuntil(b"}")
            before = await shown(served.port)
            certificates.rotate(folder, datetime.now(UTC), authority=authority)
            async with asyncio.timeout(5):
                while await shown(served.port) == before:
                    await asyncio.sleep(0.01)
            # A client that still has the authority's certificate of the beginning accepts the new one too.
            assert body(await ask(served.port, trusted))["scheme"] == "https"
            assert body(await ask(served.port, own(folder)))["scheme"] == "https"
        writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert b"https" in await reader.read()
        writer.close()


async def test_without_the_bridge_clients_of_the_old_authority_are_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cross certificate switched off: what the test above looks for does happen."""
    with_bridge = certificates._files
    monkeypatch.setattr(certificates, "_files", lambda *made: with_bridge(*made[:-1], []))
    async with serve_tls(files(folder)) as served:
        trusted, before = own(folder), await shown(served.port)
        certificates.rotate(folder, datetime.now(UTC), authority=True)
        async with asyncio.timeout(5):
            while await shown(served.port) == before:
                await asyncio.sleep(0.01)
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(served.port, trusted)


async def test_without_the_watch_the_old_certificate_stays(folder: Path) -> None:
    async with serve_tls(files(folder), poll=60) as served:
        before = await shown(served.port)
        certificates.rotate(folder, datetime.now(UTC))
        assert await shown(served.port) == before
        assert served.transport.reload()
        assert await shown(served.port) != before


async def test_removed_files_keep_the_certificate_and_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serve_tls(files(folder)) as served:
        trusted = own(folder)
        shutil.rmtree(folder)
        await until(lambda: "is not taken over" in caplog.text)
        assert body(await ask(served.port, trusted))["scheme"] == "https"


async def test_many_refused_clients_do_not_fill_the_log(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def knock(served: Served) -> None:
        with pytest.raises(REFUSED):
            await ask(served.port, trusting(issue("somebody", authority=True)))

    async with serve_tls(files(folder)) as served:
        await asyncio.gather(*(knock(served) for _ in range(20)))
        await asyncio.sleep(0)
    assert len([line for line in caplog.messages if "refused" in line]) <= 3
