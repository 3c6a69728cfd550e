"""Encryption mode of a project, its key provider, and the codec that follows from both.

Invariant: the mode is recorded in the catalog before the first payload, and no process works in the other one: payloads
in plaintext never come to lie among sealed ones. A project that is being migrated is opened by the migration alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
from sqlalchemy import select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.core.clock import microseconds
from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.scope import Scope
from antiphon.core.settings_governance import EncryptionSettings
from antiphon.governance.encryption.data_keys import DataKeys
from antiphon.governance.encryption.held_keys import HeldKeys
from antiphon.governance.encryption.key_provider import EnvironmentKeys, KeyProvider
from antiphon.governance.encryption.keyring import FileKeyring
from antiphon.governance.encryption.kms import KmsKeys

Mode = Literal["plaintext", "encrypted"]

PLAINTEXT_WARNING = (
    "ENCRYPTION IS OFF: prompts, answers, events and features lie readable on the disk. For development only; "
    "`antiphon encryption enable` seals them."
)


class Protection(msgspec.Struct, frozen=True):
    """Encryption mode of a project with its codec. ``warning`` is shown on every page and command.

    ``provider``, ``keys`` and ``held`` are ``None`` in plaintext.
    """

    mode: Mode
    codec: Codec
    provider: KeyProvider | None = None
    keys: DataKeys | None = None
    held: HeldKeys | None = None

    @property
    def warning(self) -> str | None:
        """Warning of a project in plaintext."""
        return PLAINTEXT_WARNING if self.mode == "plaintext" else None


class ModeRecord(msgspec.Struct, frozen=True):
    """A scope's mode; ``migrating`` while it is being changed to it."""

    mode: Mode
    migrating: bool


def mode_of(settings: EncryptionSettings, environment: str) -> Mode:
    """The mode that the settings ask for.

    Raises:
        SetupError: none is set outside of development.
    """
    if settings.mode is not None:
        return settings.mode
    if environment == "dev":
        return "plaintext"
    raise SetupError(
        f"`[encryption] mode` is not set, and the environment {environment!r} has no default.",
        where="antiphon.toml, [encryption] mode",
        next_step='Set mode = "encrypted" and run `antiphon encryption init`; or mode = "plaintext": then whoever gets '
        "the disk can read it.",
    )


def recorded_mode(database: Database, scope: Scope, *, within: Connection | None = None) -> ModeRecord | None:
    """Read the mode recorded for a scope; ``None`` before its first start."""
    table = schema.encryption_modes
    with database.reading(within) as connection:
        row = connection.execute(select(table).where(schema.owned(table, scope))).first()
    return None if row is None else ModeRecord(row.mode, row.migrating)


def record_mode(
    database: Database, scope: Scope, mode: Mode, *, migrating: bool = False, within: Connection | None = None
) -> None:
    """Record a scope's mode."""
    values = {"mode": mode, "migrating": migrating, "changed_at": microseconds(database.clock.now())}
    statement = upsert(schema.encryption_modes).values(tenant=scope.tenant, environment=scope.environment, **values)
    with database.writing(within) as connection:
        connection.execute(statement.on_conflict_do_update(set_=values))


def require_mode(database: Database, scope: Scope, mode: Mode) -> None:
    """Record the mode at the first start; afterwards, refuse the other one.

    Raises:
        SetupError: the project was written in the other mode, or a migration was cut off.
    """
    found = recorded_mode(database, scope)
    if found is None:
        with database.transaction() as connection:
            found = recorded_mode(database, scope, within=connection)
            if found is None:
                record_mode(database, scope, mode, within=connection)
                return
    command = "enable" if (found.mode if found.migrating else mode) == "encrypted" else "disable"
    if found.migrating:
        raise SetupError(
            f"The project is half-way into {found.mode}: the migration was cut off.",
            where=str(scope),
            next_step=f"`antiphon encryption {command}` goes on where it was.",
        )
    if found.mode != mode:
        raise SetupError(
            f"The project's payloads are {found.mode}, and it is started as {mode}.",
            where="antiphon.toml, [encryption] mode",
            next_step=f'Set mode = "{found.mode}" back, or migrate it: `antiphon encryption {command}`.',
        )


def provider_of(settings: EncryptionSettings, root: Path, environment: Mapping[str, str] | None = None) -> KeyProvider:
    """The provider a project's settings name; ``environment`` holds variables, this process's by default.

    Raises:
        SetupError: the variable named by ``secret`` is not set, or the keyring is missing.
        InvalidInputError: a KMS without URL.
    """
    variables = os.environ if environment is None else environment
    if settings.provider == "file":
        return FileKeyring(root / settings.keyring, secret_in(variables, settings.secret, "the keyring's passphrase"))
    if settings.provider == "environment":
        return EnvironmentKeys(secret_in(variables, settings.secret, "the wrapping key"), settings.secret)
    if settings.url is None:
        raise InvalidInputError(
            "A key service needs its URL.", where="antiphon.toml, [encryption]", next_step='Set url = "https://…".'
        )
    return KmsKeys(settings.url, secret_in(variables, settings.secret, "the key service's bearer token"))


def secret_in(variables: Mapping[str, str], name: str, what: str) -> str:
    """The value of a variable.

    Raises:
        SetupError: it is not set, or empty.
    """
    value = variables.get(name, "")
    if not value:
        raise SetupError(
            f"The environment variable {name} is not set: it holds {what}.",
            where="antiphon.toml, [encryption] secret",
            next_step=f"Set {name} for every process of the project. Without it nothing stored can be read.",
        )
    return value


def protect(
    database: Database,
    settings: EncryptionSettings,
    scope: Scope,
    root: Path,
    environment: Mapping[str, str] | None = None,
) -> Protection:
    """Give a project's catalog the codec that its mode asks for; to be called once it is migrated.

    The key of the project's own tenant is opened at once, so that a lost or wrong key closes the project at its start.
    ``root`` and ``environment`` are as for :func:`provider_of`.

    Raises:
        SetupError: the mode is not the recorded one, or the key provider does not open. UnavailableError: it is away.
        CorruptionError: a data key was changed.
    """
    mode = mode_of(settings, scope.environment)
    if mode == "plaintext":
        require_mode(database, scope, mode)
        database.codec = PlainCodec()
        return Protection(mode, database.codec)
    # The provider first: a first start that fails for want of a key must not have decided the mode.
    provider = provider_of(settings, root, environment)
    provider.current()
    require_mode(database, scope, mode)
    return opened(database, provider, scope)


def opened(database: Database, provider: KeyProvider, scope: Scope, *, accept_plain: bool = False) -> Protection:
    """A sealing codec over a provider, in the catalog's place; ``accept_plain`` is for a migration."""
    from antiphon.governance.encryption.sealing import AesGcmCodec

    keys = DataKeys(database, provider)
    held = HeldKeys(keys)
    held.sealing_key(scope)
    held.index_key(scope)
    database.codec = AesGcmCodec(held, accept_plain=accept_plain)
    return Protection("encrypted", database.codec, provider, keys, held)
