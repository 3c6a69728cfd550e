"""Checks of a certificate as a client makes them: key, dates, name, chain.

Verification is X.509 path building under the web profile (RFC 5280; CA/Browser Forum), by ``cryptography``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from cryptography import x509


class CertificateFacts(msgspec.Struct, frozen=True):
    """A certificate, described.

    Attributes:
        subject, issuer: names as RFC 4514 writes them. ``names``: DNS names, IP addresses and URIs it holds for.
        fingerprint: SHA-256 of its DER form, in hex.
    """

    subject: str
    issuer: str
    common_name: str
    organization: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    fingerprint: str

    def days_left(self, now: datetime) -> float:
        """Days until it ends; negative when it has ended."""
        return (self.not_after - now).total_seconds() / 86_400

    def wrong_date(self, now: datetime) -> str | None:
        """Problem with the dates at this moment, as a sentence."""
        if now < self.not_before:
            return (
                f"The certificate holds from {self.not_before:%Y-%m-%d %H:%M:%SZ} on, and this machine's clock says "
                f"{now:%Y-%m-%d %H:%M:%SZ}: the certificate is not valid yet, or the clock is behind."
            )
        if now >= self.not_after:
            return f"The certificate expired at {self.not_after:%Y-%m-%d %H:%M:%SZ}."
        return None


class CertificateFinding(msgspec.Struct, frozen=True):
    """One thing that was checked; ``problem`` is ``None`` when it is fine."""

    check: str
    found: str
    problem: str | None = None
    next_step: str | None = None


def described(certificate: x509.Certificate) -> CertificateFacts:
    """Read a parsed certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    def first(oid: x509.ObjectIdentifier) -> str:
        found = certificate.subject.get_attributes_for_oid(oid)
        return str(found[0].value) if found else ""

    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [
            *alternative.get_values_for_type(x509.DNSName),
            *(str(address) for address in alternative.get_values_for_type(x509.IPAddress)),
            *alternative.get_values_for_type(x509.UniformResourceIdentifier),
        ]
    except (x509.ExtensionNotFound, ValueError):
        names = []
    return CertificateFacts(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        common_name=first(NameOID.COMMON_NAME),
        organization=first(NameOID.ORGANIZATION_NAME),
        names=tuple(names),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def chain(pem: bytes, where: str) -> list[x509.Certificate]:
    """The certificates of a PEM file, the leaf first.

    Raises:
        InvalidInputError: there is none, or one of them cannot be read.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise InvalidInputError(
            f"{where} is no PEM certificate.", where=where, next_step="It begins with -----BEGIN CERTIFICATE-----."
        ) from None


def require_pair(certificate: bytes, key: bytes, now: datetime, where: str) -> CertificateFacts:
    """Read the leaf after checking that the key belongs to it and that it is valid now.

    Raises:
        InvalidInputError: not a certificate, not a key, the key of another certificate, expired, or not valid yet.
    """
    leaf = chain(certificate, where)[0]
    problem = _wrong_key(leaf, key) or described(leaf).wrong_date(now)
    if problem is not None:
        raise InvalidInputError(problem, where=where, next_step="`antiphon tls check` says what a client would say.")
    return described(leaf)


def check(
    certificate: bytes, key: bytes, authorities: Sequence[bytes], host: str, now: datetime
) -> list[CertificateFinding]:
    """Would a client accept it, one finding a question: key, dates, name, chain.

    Args:
        authorities: what the client trusts, each a PEM or DER certificate or a PEM file of several.
        host: the DNS name or IP address that the client uses.

    Raises:
        InvalidInputError: ``certificate`` is none, or ``host`` is neither name nor address.
    """
    certificates = chain(certificate, "certificate")
    leaf, facts = certificates[0], described(certificates[0])
    named = _names(facts, host)
    other = None if named else f"The certificate holds for {', '.join(facts.names) or 'no name'}, not for {host}."
    unverified = _unverified(certificates, authorities, host if named else None, facts, now)
    answers = (
        ("key", "belongs to the certificate", _wrong_key(leaf, key), "Set the key made with it."),
        ("dates", f"{facts.days_left(now):.0f} days left", facts.wrong_date(now), _DATES),
        ("name", f"holds for {host}", other, f"Reach the gateway by one of its names, or make one with --name {host}."),
        ("chain", "leads to an authority that the client trusts", unverified, _TRUST),
    )
    return [
        CertificateFinding(question, found, problem, None if problem is None else step)
        for question, found, problem, step in answers
    ]


_DATES = "`antiphon tls rotate`, or set this machine's clock."
_TRUST = "Give clients the authority's certificate ([tls] authority), and serve every certificate between."


def _wrong_key(leaf: x509.Certificate, key: bytes) -> str | None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        own = load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError):
        return "The key file holds no PEM private key, or one with a passphrase."
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if own.public_bytes(*form) != leaf.public_key().public_bytes(*form):
        return "The key belongs to another certificate."
    return None


def _names(facts: CertificateFacts, host: str) -> bool:
    try:
        return str(ipaddress.ip_address(host)) in facts.names
    except ValueError:
        pass
    parent = host.lower().partition(".")[2]
    return any(name.lower() in (host.lower(), f"*.{parent}") for name in facts.names)


def _unverified(
    certificates: Sequence[x509.Certificate],
    authorities: Sequence[bytes],
    host: str | None,
    facts: CertificateFacts,
    now: datetime,
) -> str | None:
    """Reason for which no chain can be built. Name and dates have findings of their own and are taken as valid."""
    from cryptography import x509
    from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

    trusted: list[x509.Certificate] = []
    for authority in authorities:
        try:
            trusted += (
                x509.load_pem_x509_certificates(authority)
                if b"-----BEGIN" in authority
                else [x509.load_der_x509_certificate(authority)]
            )
        except ValueError:
            return "The authority's file holds no certificate."
    if not trusted:
        return "The client trusts no authority."
    server = host or next((name for name in facts.names if ":" not in name), None)
    if server is None:
        return "The certificate holds for no name."
    try:
        subject: x509.DNSName | x509.IPAddress = x509.IPAddress(ipaddress.ip_address(server))
    except ValueError:
        subject = x509.DNSName(server.replace("*", "any"))
    moment = min(max(now, facts.not_before), facts.not_after)
    try:
        verifier = PolicyBuilder().store(Store(trusted)).time(moment).build_server_verifier(subject)
        verifier.verify(certificates[0], list(certificates[1:]))
    except VerificationError as error:
        return f"No chain of certificates leads to a trusted authority ({error})."
    return None
