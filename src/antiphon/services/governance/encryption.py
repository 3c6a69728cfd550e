"""Encryption of one project: keyring, state, rotation, re-encryption, and the way from one mode to the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec

from antiphon.catalog import sealed_columns
from antiphon.catalog.sealed_columns import UnreadablePayload
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.features.lake.content import Lake
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.redis.store import RedisStore
from antiphon.governance.encryption.data_keys import DataKeys
from antiphon.governance.encryption.held_keys import HeldKeys
from antiphon.governance.encryption.key_provider import KeyProvider
from antiphon.governance.encryption.protection import Mode, Protection, protect, recorded_mode
from antiphon.services.batches import file_contents
from antiphon.services.governance.log_check import CheckedStream, check_log, on_server
from antiphon.services.project.feature_stores import FeatureStores
from antiphon.services.project.store import Store
from antiphon.training import folder_seal

Tell = Callable[[str, int], None]
"""Told how far it is: at which store, and how many of its payloads were gone through."""

_PASSES = 3


class DataKeyLine(msgspec.Struct, frozen=True):
    """A data key as people see it."""

    id: str
    scope: str
    purpose: str
    state: str
    provider: str
    wrapping_key: str
    created_at: datetime
    retired_at: datetime | None


class EncryptionStatus(msgspec.Struct, frozen=True):
    """A project's encryption: the mode, and the keys by id. No key itself is ever shown."""

    mode: Mode
    migrating: bool
    warning: str | None
    provider: str | None
    wrapping_key: str | None
    keys: tuple[DataKeyLine, ...]


class EncryptionCheck(msgspec.Struct, frozen=True):
    """Result of opening everything: payloads and files by data key, and those that do not open."""

    by_key: dict[str, int]
    problems: tuple[UnreadablePayload, ...]
    log: tuple[CheckedStream, ...] = ()


class RewrapResult(msgspec.Struct, frozen=True):
    """Result of a re-wrap: data keys, and with ``--reencrypt`` the payloads and files that were sealed anew."""

    keys: int
    payloads: int
    problems: tuple[UnreadablePayload, ...]
    on_server: dict[str, int | None] = {}


@contextmanager
def open_encryption(root: Path) -> Iterator[Encryption]:
    """A project's encryption, for a command.

    Raises:
        SetupError: the project would not start; says why.
    """
    store = Store.unprotected(root)
    try:
        yield Encryption(store, protect(store.database, store.settings.encryption, store.scope, store.paths.root))
    finally:
        store.close()


class Encryption:
    """One project's encryption, over its opened stores."""

    def __init__(self, store: Store, protection: Protection) -> None:
        self.store = store
        self._protection = protection

    def status(self) -> EncryptionStatus:
        """The mode and the keys."""
        store, found = self.store, self._protection
        recorded = recorded_mode(store.database, store.scope)
        keys = found.keys.list() if found.keys is not None else []
        return EncryptionStatus(
            mode=found.mode,
            migrating=recorded is not None and recorded.migrating,
            warning=found.warning,
            provider=None if found.provider is None else found.provider.name,
            wrapping_key=None if found.provider is None else found.provider.current(),
            keys=tuple(
                DataKeyLine(
                    key.id, str(key.scope), key.purpose, key.state, key.provider, key.wrapped.wrapping_key,
                    key.created_at, key.retired_at,
                )
                for key in keys
            ),
        )  # fmt: skip

    def rotate(self) -> tuple[str, ...]:
        """Make a data key for each tenant's new payloads, which every process uses within a second; returns their ids.

        Raises:
            InvalidInputError: the project is in plaintext.
        """
        keys, _, held = self._encrypted()
        scopes = sorted({key.scope for key in keys.list()})
        made = tuple(keys.rotate(scope).id for scope in scopes)
        held.forget()
        return made

    def rewrap(
        self, *, new_wrapping_key: bool = False, reencrypt: bool = False, tell: Tell = lambda *_: None
    ) -> RewrapResult:
        """Wrap every data key by the provider's current wrapping key, while everything runs.

        Args:
            new_wrapping_key: make a new one first, and forget those that wrap nothing any more.
            reencrypt: also seal every payload and file anew under the data keys that are active now. Cut off, it goes
                on where it was.

        Raises:
            InvalidInputError: the project is in plaintext, or its provider makes no keys.
            SetupError, UnavailableError: the provider lacks a key, or is away; nothing is lost.
        """
        keys, provider, _ = self._encrypted()
        before = {key.wrapped.wrapping_key for key in keys.list()}
        if new_wrapping_key:
            provider.rotate()
        changed = sum(keys.rewrap(key) for key in keys.list())
        left = {key.wrapped.wrapping_key for key in keys.list()}
        for wrapping_key in before - left:
            provider.retire(wrapping_key)
        if not reencrypt:
            return RewrapResult(changed, 0, ())
        active = sorted(key.id for key in keys.list() if key.state == "active")
        payloads, problems = self.reseal(",".join(active), tell)
        return RewrapResult(changed, payloads, problems, on_server(self.store))

    def reseal(self, target: str, tell: Tell) -> tuple[int, tuple[UnreadablePayload, ...]]:
        """Seal every payload and file with the catalog's present codec; how many were changed, and what was lost
        before."""
        database, changed = self.store.database, 0
        problems: dict[tuple[str, str, str], UnreadablePayload] = {}
        for _ in range(_PASSES):
            in_pass = 0
            for column in sealed_columns.SEALED_COLUMNS:
                for batch in sealed_columns.reseal(database, column, target):
                    in_pass += batch.changed
                    problems |= {(each.store, each.scope, each.subject): each for each in batch.problems}
                    tell(column.name, batch.done)
            sealed_columns.forget_progress(database)
            changed += in_pass
            if in_pass == 0:
                break  # what was written with the key before, while its lease ran out, is done as well
        for name, reseal in self._files():
            try:
                changed += reseal()
            except (AntiphonError, OSError, msgspec.DecodeError) as error:
                problems[name, "", ""] = UnreadablePayload(
                    name, "", "", error.what if isinstance(error, AntiphonError) else str(error)
                )
            tell(name, changed)
        database.erase_free_space()
        return changed, tuple(problems.values())

    def check(self, tell: Tell = lambda *_: None, *, anew: bool = False) -> EncryptionCheck:
        """Open everything. What does not open is listed, and keeps nothing else from being looked at.

        ``anew`` opens events on a server from the first one, even where a check was cut off less than a day ago."""
        by_key: Counter[str] = Counter()
        problems: list[UnreadablePayload] = []
        for column in sealed_columns.SEALED_COLUMNS:
            found = sealed_columns.check(self.store.database, column)
            by_key.update(found.by_key)
            problems.extend(found.problems)
            tell(column.name, sum(found.by_key.values()))
        stores = FeatureStores(self.store)
        lake, online = stores.lake, stores.online
        with closing(file_contents(self.store)) as contents:
            for files, name in ((lake, "lake"), (contents, "files")):
                for owner in files.scopes():
                    for relative in files.files(owner):
                        try:
                            by_key[files.key_of(relative) or "plaintext"] += 1
                            files.verify(relative, Path(relative).stem)
                        except AntiphonError as error:
                            problems.append(UnreadablePayload(name, str(owner), relative, error.what))
        for scope in stores.scopes():
            for view, snapshot in online.files(scope):
                try:
                    by_key[online.key_of(scope, view, snapshot) or "plaintext"] += 1
                    for _ in online.values(scope, view, snapshot):
                        pass
                except (AntiphonError, OSError, msgspec.DecodeError) as error:
                    problems.append(UnreadablePayload("online", str(scope), f"{view}/{snapshot}", str(error)))
            if stores.has_overlay(scope):
                with closing(stores.open_overlay(scope)) as overlay:
                    try:
                        events = overlay.check()
                        by_key.update(events.by_key)
                        if events.unopened:
                            subject, problem = f"{events.unopened} events", events.problem or ""
                            problems.append(UnreadablePayload("overlay", str(scope), subject, problem))
                    except AntiphonError as error:
                        problems.append(UnreadablePayload("overlay", str(scope), "", error.what))
                tell(f"overlay {scope}", sum(by_key.values()))
        log = check_log(self.store, tell, anew=anew)
        by_key.update(log.by_key)
        return EncryptionCheck(dict(by_key), (*problems, *log.problems), log.streams)

    def _files(self) -> Iterator[tuple[str, Callable[[], int]]]:
        """Every file with payloads, and what seals it anew and counts."""
        store = self.store
        stores = FeatureStores(store)
        lake, online = stores.lake, stores.online
        codec, folder = store.database.codec, store.paths.directory
        for scope in stores.scopes():
            key = codec.current_key(scope)
            for relative in list(lake.files(scope)):
                yield f"lake {relative}", partial(_reseal_lake, lake, relative, key)
            for view, snapshot in list(online.files(scope)):
                yield f"online {view}/{snapshot}", partial(_reseal_online, online, scope, view, snapshot, key)
            if stores.has_overlay(scope):
                yield f"overlay {scope}", partial(_reseal_overlay, stores, scope)
        with closing(file_contents(store)) as contents:
            for scope in contents.scopes():
                for relative in list(contents.files(scope)):
                    yield f"file {relative}", partial(_reseal_lake, contents, relative, codec.current_key(scope))
        for run in folder_seal.folders(folder / "training"):
            yield f"training {run.name}", partial(folder_seal.reseal, run, codec, store.scope)

    def _encrypted(self) -> tuple[DataKeys, KeyProvider, HeldKeys]:
        found = self._protection
        if found.keys is None or found.provider is None or found.held is None:
            raise InvalidInputError(
                "The project is in plaintext: there are no keys.",
                where="antiphon.toml, [encryption]",
                next_step='Set mode = "encrypted" and run `antiphon encryption enable`.',
            )
        return found.keys, found.provider, found.held


def _reseal_overlay(stores: FeatureStores, scope: Scope) -> int:
    with closing(stores.open_overlay(scope)) as overlay:
        return overlay.reseal()


def _reseal_lake(lake: Lake, relative: str, key: str | None) -> int:
    try:
        if lake.key_of(relative) == key:
            return 0
        lake.reseal(relative)
    except (AntiphonError, OSError):
        if any(relative == known for known in lake.files(Scope(*relative.split("/")[:2]))):
            raise
        return 0  # collected meanwhile
    return 1


def _reseal_online(online: LmdbStore | RedisStore, scope: Scope, view: str, snapshot: str, key: str | None) -> int:
    try:
        if online.key_of(scope, view, snapshot) == key:
            return 0
        online.reseal(scope, view, snapshot)
    except (AntiphonError, OSError):
        if (view, snapshot) in online.files(scope):
            raise
        return 0  # collected meanwhile
    return 1
