"""Sections of ``antiphon.toml`` about identity, encryption, TLS, audit, policy, lineage and changes, frozen values."""

from __future__ import annotations

from typing import Literal

import msgspec

from antiphon.core.settings_sections import Duration, Section


class OidcSettings(Section, frozen=True):
    """An OpenID Connect issuer whose JWTs are accepted. ``None`` for ``issuer`` accepts none.

    Attributes:
        issuer: the ``iss`` that tokens must carry; its keys are read from ``jwks``.
        audience: the ``aud`` that tokens must carry.
        jwks: URL or file of the issuer's JSON Web Key Set; by default ``ISSUER/.well-known/jwks.json``. A URL must be
            https, unless it names this machine.
        tenant_claim, role_claim, name_claim: where a token names tenant, role and principal. An empty tenant claim
            means that every token is of the project's tenant.
        roles: values of the role claim to roles of ours; one that is not listed has no role, so it is refused.
        leeway: how far clocks may differ.
    """

    issuer: str | None = None
    audience: str = "antiphon"
    jwks: str | None = None
    tenant_claim: str = "tenant"
    role_claim: str = "role"
    name_claim: str = "sub"
    roles: dict[str, Literal["admin", "engineer", "service", "viewer"]] = msgspec.field(default_factory=dict)
    leeway: Duration = "30s"


class IdentitySettings(Section, frozen=True):
    """Sign-in by token, session and key.

    Attributes:
        oidc: an issuer of JWTs beside our own API keys.
        session: how long a dashboard session lasts at most.
        idle: how long it lasts without a page being looked at.
        revocation_bound: how long a key that was seen is believed while the catalog is away.
    """

    oidc: OidcSettings = OidcSettings()
    session: Duration = "12h"
    idle: Duration = "1h"
    revocation_bound: Duration = "30s"


class EncryptionSettings(Section, frozen=True):
    """Encryption of stored payloads.

    Attributes:
        mode: ``plaintext`` stores payloads as they are, and says so at every start; ``encrypted`` seals them with a
            data key of their tenant. ``None`` is plaintext in the environment ``dev`` and an error in any other.
        provider: who keeps the key that wraps data keys: a keyring ``file`` (its passphrase in the environment variable
            named by ``secret``), the ``environment`` (32 bytes in base64 in that variable), or a ``kms`` at ``url``.
        keyring: the keyring's file, relative to the project's folder.
        secret: name of an environment variable.
    """

    mode: Literal["plaintext", "encrypted"] | None = None
    provider: Literal["file", "environment", "kms"] = "file"
    keyring: str = ".antiphon/keys/keyring.json"
    secret: str = "ANTIPHON_PASSPHRASE"
    url: str | None = None


class TlsSettings(Section, frozen=True):
    """TLS of the gateway. Files relative to the project's folder; changed ones are read again while it serves.

    Attributes:
        certificate, key: PEM files; without them the gateway speaks plain HTTP and may listen on loopback only.
        client_ca: certificates of clients are checked against it (mutual TLS, in TLS 1.3 alone).
        require_client: refuse clients without a certificate.
        authority: PEM file of whom this project's own clients trust; ``None`` trusts whom the machine does.
        client_certificate, client_key: what this project's own clients and probes show of themselves.
        allow_plain_http: listen beyond loopback without TLS, where something in front of the gateway ends it.
    """

    certificate: str | None = None
    key: str | None = None
    client_ca: str | None = None
    require_client: bool = False
    authority: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    allow_plain_http: bool = False


class AuditSettings(Section, frozen=True):
    """The audit log's checkpoints.

    Attributes:
        witness: a file, best on another machine's disk, to which each signed checkpoint is appended.
        every: how often a checkpoint is signed while there is something new.
        origin: first part of the checkpoints' name, unique among installations whose checkpoints are kept together.
    """

    witness: str = ".antiphon/witness/checkpoints"
    every: Duration = "10s"
    origin: str = "antiphon"


class PolicySettings(Section, frozen=True):
    """The project's own policies: files of Cedar policies and of their tests, relative to its folder."""

    files: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()


class LineageSettings(Section, frozen=True):
    """A receiver of OpenLineage events; without a ``url`` they are kept here alone.

    Attributes:
        url: that events are posted to, such as ``https://marquez.example.com/api/v1/lineage``.
        api_key_variable: name of the environment variable with the receiver's key, sent as a bearer token; the URL is
            then https or of this machine.
        namespace: of jobs and of datasets that have no name elsewhere; ``None`` is ``antiphon://TENANT/ENVIRONMENT``.
        authority: PEM file of whom to trust for its certificate; ``None`` trusts whom the machine does.
    """

    url: str | None = None
    api_key_variable: str | None = None
    namespace: str | None = None
    authority: str | None = None


class ChangesSettings(Section, frozen=True):
    """The change log for outsiders.

    Attributes:
        public: applications whose public notes are read without a key, as page, JSON and feed; none by default.
    """

    public: tuple[str, ...] = ()
