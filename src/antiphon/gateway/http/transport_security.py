"""TLS of the gateway: which certificate it shows, whom it lets in, and new files taken over while it serves.

Invariant: what is shown was loaded whole, its key belongs to it, and it was valid when it was loaded. A handshake takes
the newest such pair; a pair that is broken, half-written, expired or not valid yet changes nothing and is told.

The listener's own context never changes. OpenSSL asks it for a context by the callback that exists for server names
(RFC 6066, section 3), at every handshake; the callback answers with the newest one, so connections that are open know
nothing of it. Under mutual TLS nobody resumes a session: a resumed one would not show its certificate again.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError, InvalidInputError, SetupError
from antiphon.core.outgoing import is_loopback
from antiphon.core.settings import Settings
from antiphon.core.settings_governance import TlsSettings
from antiphon.governance.certificates.checks import CertificateFacts, chain, described, require_pair

POLL_SECONDS = 0.25
"""Interval of reading the files; a changed pair is used within about twice that."""

SOON_DAYS = 14
"""Time before its end at which a certificate is warned about."""

LOGGED_EVERY = 1.0
"""Seconds between two log lines about refused handshakes of one reason; those between are counted."""

_TRIES = 3

_PLAIN_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
    b"content-length: 41\r\n\r\nThis port speaks HTTPS. Use https:// here"
)

_REASONS = {
    "HTTP_REQUEST": "it spoke plain HTTP to the TLS port",
    "UNSUPPORTED_PROTOCOL": "it offers no version of TLS that is accepted here",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate, and one is required",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not accepted",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust the authority of our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that our certificate has expired; look at both clocks",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "NO_SHARED_CIPHER": "no cipher is known to both sides",
}


class TlsFiles(msgspec.Struct, frozen=True):
    """The certificate files of the gateway. ``client_ca`` turns mutual TLS on; ``require_client`` makes it a
    condition."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    require_client: bool = False


def tls_files(settings: TlsSettings, root: Path) -> TlsFiles | None:
    """The files that the settings name; ``None`` without TLS.

    Raises:
        InvalidInputError: a certificate without a key, or the other way round, or clients required of no authority.
    """
    where = "antiphon.toml, [tls]"
    if (settings.certificate is None) != (settings.key is None):
        missing = "key" if settings.key is None else "certificate"
        raise InvalidInputError(
            f"`{missing}` is missing.", where=where, next_step="Set `certificate` and `key` together."
        )
    if settings.certificate is None or settings.key is None:
        if settings.client_ca is not None or settings.require_client:
            raise InvalidInputError(
                "Clients can be checked over TLS only.", where=where, next_step="Set `certificate` and `key` too."
            )
        return None
    if settings.require_client and settings.client_ca is None:
        raise InvalidInputError(
            "Clients are required and no authority is set for them.",
            where=where,
            next_step="Set `client_ca`.",
        )
    if settings.require_client and settings.client_certificate is None:
        raise InvalidInputError(
            "Clients must show a certificate, and this project's own probes have none.",
            where=where,
            next_step="Set `client_certificate` and `client_key`; `antiphon tls init` makes them.",
        )
    client_ca = None if settings.client_ca is None else root / settings.client_ca
    return TlsFiles(root / settings.certificate, root / settings.key, client_ca, settings.require_client)


def require_protection(settings: Settings) -> None:
    """Raise where keys and prompts would cross a network in plain text.

    Raises:
        InvalidInputError: the gateway is to listen beyond loopback without TLS, and that is not expressly allowed.
    """
    tls, host = settings.tls, settings.gateway.host
    if tls.certificate is not None or tls.allow_plain_http or is_loopback(host):
        return
    raise InvalidInputError(
        f"Plain HTTP on {host} would show keys and prompts to the network.",
        where="antiphon.toml, [tls]",
        next_step=(
            "Run `antiphon tls init --write`, or set `host` under [gateway] to 127.0.0.1. Where a proxy in front of it "
            "ends TLS, set `allow_plain_http = true` under [tls]."
        ),
    )


class TransportSecurity:
    """The gateway's TLS.

    Args:
        files: where certificate, key and the clients' authority lie.
        on_client_ca: called when an authority of clients is trusted no more; connections it vouched for must end.
        role: of the process, whose log tells of certificates and refusals.

    Raises:
        SetupError: the files cannot be served with at all.
    """

    def __init__(
        self,
        files: TlsFiles,
        clock: Clock,
        *,
        on_client_ca: Callable[[], object] = lambda: None,
        role: str = "gateway",
    ) -> None:
        self._log = logging.getLogger(f"antiphon.{role}")
        self._files = files
        self._clock = clock
        self.on_client_ca = on_client_ca
        self._loaded_stamp = self._failed_stamp = self._stamp()
        self._failure: str | None = None
        self._told: tuple[Any, ...] | None = None
        self._refused = _HandshakeFailures(clock, self._log)
        try:
            self._context, self._facts, self._authorities = self._load()
        except AntiphonError as error:
            raise SetupError(
                f"TLS cannot be served: {error.what}", where=error.where, next_step=error.next_step
            ) from None
        self.context = self._listener()

    @property
    def facts(self) -> CertificateFacts:
        """The certificate that is shown now."""
        return self._facts

    def part(self) -> str | None:
        """The defect that keeps clients from accepting the certificate; ``None`` when there is none."""
        wrong = self._facts.wrong_date(self._clock.now())
        return None if wrong is None else f"{wrong} `antiphon tls rotate` makes a new one."

    def notice(self) -> str | None:
        """A defect to be repaired that does not keep it from serving."""
        if self._failure is not None:
            return self._failure
        left = self._facts.days_left(self._clock.now())
        return f"The certificate ends in {left:.0f} days." if 0 < left < SOON_DAYS else None

    async def watch(self, poll: float = POLL_SECONDS) -> None:
        """Take over new files as they come, until cancelled."""
        while True:
            await asyncio.sleep(poll)
            try:
                await asyncio.to_thread(self.reload)
            except Exception:  # whatever it is, the certificate that is shown stays
                self._log.exception("The certificate's files cannot be looked at; trying again")

    def reload(self) -> bool:
        """Look at the files; ``True`` when a new pair is shown from now on."""
        stamp = self._stamp()
        if stamp == self._loaded_stamp:
            self._failure = None
            return False
        try:
            context, facts, authorities = self._load()
        except AntiphonError as error:
            # Two files cannot be changed in one instant: only what stays broken until the next look is told.
            if stamp == self._failed_stamp and stamp != self._told:
                self._told = stamp
                self._failure = f"The new certificate is not taken over: {error} The one before is still shown."
                self._log.error("%s", self._failure)
            self._failed_stamp = stamp
            return False
        distrusted = self._authorities - authorities
        self._context, self._facts, self._authorities = context, facts, authorities
        self._loaded_stamp, self._failure = stamp, None
        self._log.info(
            "A new certificate is shown: %s, until %s.", facts.fingerprint[:16], f"{facts.not_after:%Y-%m-%d}"
        )
        if distrusted:
            self._log.info("An authority of clients is trusted no more; the connections that are open end.")
            self.on_client_ca()
        return True

    def _load(self) -> tuple[ssl.SSLContext, CertificateFacts, frozenset[str]]:
        """A context of its own with one settled state of the files."""
        for _ in range(_TRIES):
            before = self._stamp()
            loaded = self._load_once()
            if self._stamp() == before:
                return loaded
        raise InvalidInputError("The files keep changing.", where=str(self._files.certificate))

    def _load_once(self) -> tuple[ssl.SSLContext, CertificateFacts, frozenset[str]]:
        # One resolution of a folder for all files in it: a link that moves meanwhile cannot pair old with new.
        folders = {file.parent: file.parent.resolve() for file in self._paths()}
        certificate, key, *client_ca = (folders[file.parent] / file.name for file in self._paths())
        facts = require_pair(_bytes(certificate), _bytes(key), self._clock.now(), str(self._files.certificate))
        context = _context()
        authorities = frozenset(
            described(entry).fingerprint for file in client_ca for entry in chain(_bytes(file), str(file))
        )
        try:
            context.load_cert_chain(certificate, key, password="")
            for file in client_ca:
                context.load_verify_locations(file)
                context.verify_mode = self._verify_mode()
        except (OSError, ValueError) as error:
            raise InvalidInputError(
                f"OpenSSL refuses them ({getattr(error, 'reason', None) or type(error).__name__}).",
                where=str(self._files.certificate),
            ) from None
        return context, facts, authorities

    def _listener(self) -> ssl.SSLContext:
        listener = _context(self._refused)
        if self._files.client_ca is not None:
            listener.minimum_version = ssl.TLSVersion.TLSv1_3
            listener.options |= ssl.OP_NO_TICKET
            listener.num_tickets = 0
            listener.verify_mode = self._verify_mode()

        def newest(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            connection.context = self._context

        listener.sni_callback = newest
        return listener

    def _verify_mode(self) -> ssl.VerifyMode:
        return ssl.CERT_REQUIRED if self._files.require_client else ssl.CERT_OPTIONAL

    def _paths(self) -> tuple[Path, ...]:
        files = self._files
        return (files.certificate, files.key, *(() if files.client_ca is None else (files.client_ca,)))

    def _stamp(self) -> tuple[Any, ...]:
        stamp: list[Any] = []
        for file in self._paths():
            try:
                found = file.stat()
                stamp.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
            except OSError as error:
                stamp.append(error.errno)
        return tuple(stamp)


class _HandshakeFailures:
    """Tells about handshakes that failed, at most one line a second for each reason."""

    def __init__(self, clock: Clock, log: logging.Logger) -> None:
        self._clock = clock
        self._log = log
        self._last: dict[str, float] = {}
        self._since: Counter[str] = Counter()

    def __call__(self, error: ssl.SSLError) -> None:
        code = error.reason or type(error).__name__
        reason = _REASONS.get(code, code.lower().replace("_", " "))
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"{reason} ({error.verify_message})"
        now = self._clock.monotonic()
        if now - self._last.get(reason, -LOGGED_EVERY) < LOGGED_EVERY:
            self._since[reason] += 1
            return
        before = self._since.pop(reason, 0)
        if len(self._last) > 64:
            self._last.clear()
        self._last[reason] = now
        self._log.warning("A client was refused: %s%s.", reason, f" ({before} more before)" if before else "")


class _HandshakeContext(ssl.SSLContext):
    """A context whose connections tell why a handshake failed, and let the client hear of it."""

    refused: _HandshakeFailures

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *rest: Any, **named: Any) -> ssl.SSLObject:
        connection = super().wrap_bio(incoming, outgoing, *rest, **named)
        assert isinstance(connection, _HandshakeConnection)
        connection.outgoing, connection.refused = outgoing, self.refused
        return connection


class _HandshakeConnection(ssl.SSLObject):
    outgoing: ssl.MemoryBIO
    refused: _HandshakeFailures
    failed: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self.failed is not None:
            raise self.failed
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.failed = error
            with suppress(Exception):
                self.refused(error)
            if error.reason == "HTTP_REQUEST":
                self.outgoing.write(_PLAIN_ANSWER)
            if not self.outgoing.pending:
                raise
            # The event loop drops what a failed handshake leaves to be sent, but sends it when more is wanted. So the
            # client hears why; it closes, and that or whatever else it sends ends the handshake.
            raise ssl.SSLWantReadError from None


def _context(refused: _HandshakeFailures | None = None) -> ssl.SSLContext:
    if refused is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    else:
        context = listening = _HandshakeContext(ssl.PROTOCOL_TLS_SERVER)
        listening.refused = refused
        listening.sslobject_class = _HandshakeConnection
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    return context


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidInputError(
            f"{file} cannot be read: {error.strerror}.",
            where=str(file),
            next_step="`antiphon tls init` makes certificates.",
        ) from None
