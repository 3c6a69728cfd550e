"""TLS as a client: whom to trust, and what to show of oneself.

Nothing here ever turns verification off. What may be left out is the comparison of the name, for a probe that knows
the address of its own child but not the name that its certificate was made for; the chain is verified all the same.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import msgspec

from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.settings import Settings

_REACHED = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""An address that means every interface, to one where this machine reaches it."""


class ClientTls(msgspec.Struct, frozen=True):
    """Client settings of a connection over TLS.

    Attributes:
        authority: PEM file of the certificates to trust; ``None`` trusts what the machine trusts.
        certificate, key: PEM files to show when the server asks (mutual TLS).
        check_name: compare the server's name with its certificate.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    check_name: bool = True

    def context(self, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> ssl.SSLContext:
        """A context for this version of TLS and later that verifies.

        Raises:
            InvalidInputError: a file is missing or is not what it should be.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = minimum
        context.check_hostname = self.check_name
        try:
            if self.authority is None:
                context.load_default_certs()
            else:
                context.load_verify_locations(self.authority)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInputError(
                f"The certificates of authorities in {self.authority} cannot be used ({_reason(error)}).",
                where=str(self.authority),
                next_step="Name a PEM file of certificates.",
            ) from None
        if self.certificate is not None:
            try:
                self._show(context, self.certificate)
            except (OSError, ssl.SSLError) as error:
                raise InvalidInputError(
                    f"The client certificate {self.certificate} and its key cannot be used ({_reason(error)}).",
                    where=str(self.certificate),
                    next_step="Name a certificate and the key that belongs to it, both PEM files.",
                ) from None
        return context

    def _show(self, context: ssl.SSLContext, certificate: Path) -> None:
        try:
            context.load_cert_chain(certificate, self.key)
        except (OSError, ssl.SSLError):
            # Both may have been replaced after the first was read and before the second: then they fit now.
            context.load_cert_chain(certificate, self.key)


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or type(error).__name__).lower().replace("_", " ")


def problem_of(error: BaseException, name: str, *, where: str, authority: str, certificate: str) -> SetupError | None:
    """Describes what a failure to connect says about TLS, on either side; ``None`` when it is about something else,
    such as a connection that just ended. A server that does not take our certificate may do that too.

    Args:
        error: whatever a client raised; what it was raised from is looked at too.
        name: the server, for people. ``where``: our part that speaks to it.
        authority, certificate: the settings that name whom to trust and what to show.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ssl.SSLError):
        seen = seen.__cause__ or seen.__context__
    if seen is None or isinstance(seen, ssl.SSLEOFError | ssl.SSLSyscallError) or seen.library == "SYS":
        return None
    if isinstance(seen, ssl.SSLCertVerificationError):
        return SetupError(
            f"The certificate of {name} is not accepted: {seen.verify_message or _reason(seen)}.".replace("..", "."),
            where=where,
            next_step=f"Check its names and dates; `{authority}` names the PEM file of whom to trust.",
        )
    reason = _reason(seen)
    if "alert" in reason:
        return SetupError(
            f"{name} ended the connection: {reason}.",
            where=where,
            next_step=f"If it asks for a certificate, check `{certificate}` and its key: who signed it, and its dates.",
        )
    return SetupError(
        f"TLS with {name} failed: {reason}.", where=where, next_step="See whether it speaks TLS 1.2 or later there."
    )


def own_client(settings: Settings, root: Path) -> ClientTls | None:
    """Returns the TLS settings by which this project's own commands and probes reach its gateway; ``None`` over plain
    HTTP."""
    tls = settings.tls
    if tls.certificate is None:
        return None
    return client_tls(root, tls.authority, tls.client_certificate, tls.client_key)


def client_tls(root: Path, *files: str | None) -> ClientTls:
    """The TLS files that settings name relative to a folder: authority, certificate and key of a client."""
    authority, certificate, key = (None if file is None else root / file for file in files)
    return ClientTls(authority, certificate, key)


def gateway_url(settings: Settings) -> str:
    """Returns the URL by which this machine reaches the gateway, without a final slash."""
    gateway = settings.gateway
    scheme = "http" if settings.tls.certificate is None else "https"
    host = _REACHED.get(gateway.host, gateway.host)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{gateway.port}"
