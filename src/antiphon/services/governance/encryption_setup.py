"""The beginnings of an encrypted project: its keyring, and the way from one mode to the other."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from antiphon.catalog.features.events import StreamHomes
from antiphon.catalog.sealed_columns import UnreadablePayload
from antiphon.core import settings as project_settings
from antiphon.core.errors import ConflictError, InvalidInputError, SetupError
from antiphon.governance.encryption import keyring
from antiphon.governance.encryption.protection import (
    PLAINTEXT_WARNING,
    Mode,
    mode_of,
    opened,
    protect,
    provider_of,
    record_mode,
    recorded_mode,
    secret_in,
)
from antiphon.governance.encryption.sealing import AesGcmCodec, UnsealingCodec
from antiphon.operations.processes import is_running, read_records
from antiphon.services.governance.encryption import Encryption, Tell
from antiphon.services.project.store import Store


def initialize(root: Path) -> str:
    """Make the project's keyring and its first keys; returns the wrapping key's id.

    Raises:
        InvalidInputError: the settings do not ask for encryption. ConflictError: there is a keyring already.
        SetupError: the passphrase is not set or too short; the mode is another one already.
    """
    project, paths = project_settings.load(root)
    encryption = project.encryption
    if mode_of(encryption, project.project.environment) != "encrypted":
        raise InvalidInputError(
            "The project is in plaintext.", where="antiphon.toml, [encryption]", next_step='Set mode = "encrypted".'
        )
    if encryption.provider == "file":
        passphrase = secret_in(os.environ, encryption.secret, "the keyring's passphrase")
        keyring.create(paths.root / encryption.keyring, passphrase)
    store = Store.unprotected(root)
    try:
        found = protect(store.database, encryption, store.scope, paths.root)
        assert found.provider is not None
        return found.provider.current()
    finally:
        store.close()


def migrate(root: Path, mode: Mode, tell: Tell = lambda *_: None) -> tuple[int, tuple[UnreadablePayload, ...]]:
    """Bring a project that does not run into a mode; cut off, it goes on where it was.

    It returns how many payloads and files were changed, and those that were lost before.

    Raises:
        InvalidInputError: the settings ask for the other mode. ConflictError: the project runs.
        SetupError: the key provider does not open.
    """
    project, paths = project_settings.load(root)
    if mode_of(project.encryption, project.project.environment) != mode:
        raise InvalidInputError(
            f"The settings ask for the other mode than {mode}.",
            where="antiphon.toml, [encryption] mode",
            next_step=f'Set mode = "{mode}".',
        )
    running = [record.name for record in read_records(paths.run) if is_running(record)]
    if running:
        raise ConflictError(
            f"The project runs: {', '.join(running)}.", where=str(paths.root),
            next_step="Stop `antiphon up`; a mode is changed while nothing is written.",
        )  # fmt: skip
    encryption = msgspec.structs.replace(project.encryption, mode="encrypted")
    provider = provider_of(encryption, paths.root)
    provider.current()
    store = Store.unprotected(root)
    try:
        known = recorded_mode(store.database, store.scope)
        if known is not None and known.mode == mode and not known.migrating:
            return 0, ()
        elsewhere = StreamHomes(store.database).elsewhere()
        if elsewhere:
            raise ConflictError(
                f"The events of {len(elsewhere)} stream(s) are on a log server, where none is ever written anew: "
                f"{', '.join(stream for _, stream in elsewhere)}.",
                where="[features] log",
                next_step="Choose the mode before the first event, or begin a new project with it.",
            )
        record_mode(store.database, store.scope, mode, migrating=True)
        protection = opened(store.database, provider, store.scope, accept_plain=True)
        codec = protection.codec
        if mode == "plaintext":
            assert isinstance(codec, AesGcmCodec)
            store.database.codec = UnsealingCodec(codec)
        # What a crash left unfinished is not worth carrying over.
        for folder in (paths.lake, paths.files):
            shutil.rmtree(folder / ".scratch", ignore_errors=True)
        for left_over in (*paths.online.rglob(".*.building"), *paths.directory.rglob("*.partial")):
            left_over.unlink()
        changed, problems = Encryption(store, protection).reseal(mode, tell)
        store.database.compact()
        record_mode(store.database, store.scope, mode)
        return changed, problems
    finally:
        store.close()


def require_provider_ready(root: Path) -> str:
    """For ``antiphon doctor``: one line about encryption.

    Raises:
        SetupError: the project would not start.
    """
    project, paths = project_settings.load(root)
    mode = mode_of(project.encryption, project.project.environment)
    if mode == "plaintext":
        return PLAINTEXT_WARNING
    provider = provider_of(project.encryption, paths.root)
    current = provider.current()
    if not current:
        raise SetupError("The key provider names no key.", where=provider.name)
    return f"encrypted, {provider.name} key {current}"
