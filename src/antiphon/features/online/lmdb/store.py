"""The online store of one root folder: builds sealed files from the lake, opens them, and forgets old ones."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.codec import Codec, unpack
from antiphon.core.disk import delete_older, remove_folder
from antiphon.core.errors import CorruptionError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.lake.content import Lake
from antiphon.features.online.lmdb.snapshot import LmdbSnapshot
from antiphon.features.online.lmdb.writer import LmdbWriter, is_sealed, is_whole, one_at_a_time, read_seal, seal_path
from antiphon.features.online.snapshots.building import copy_records, fill
from antiphon.features.online.snapshots.encoding import SnapshotMeta
from antiphon.features.online.snapshots.store import SnapshotStore


class LmdbStore(SnapshotStore[LmdbSnapshot]):
    """Sealed snapshots below one root, the files ``TENANT/ENVIRONMENT/VIEW/SNAPSHOT.mdb``."""

    def __init__(self, root: Path, key: bytes, codec: Codec | None = None) -> None:
        super().__init__(key, codec)
        self._root = root

    def file(self, scope: Scope, view: str, snapshot: str) -> Path:
        """Path of a snapshot's sealed file."""
        return self._root / scope.tenant / scope.environment / view / f"{snapshot}.mdb"

    def sealed(self, scope: Scope, view: str, snapshot: str) -> bool:
        """Tell whether the snapshot can be read online."""
        return is_sealed(self.file(scope, view, snapshot), snapshot)

    def build(self, manifest: SnapshotManifest, spec: FeatureViewSpec, lake: Lake) -> bool:
        """Build a snapshot's sealed file from its lake files, unless it is there; whether it was built now."""
        target = self.file(manifest.scope, manifest.view, manifest.id)
        if is_sealed(target, manifest.id):
            with suppress(FileNotFoundError):
                # It may be old enough to be collected, and is about to be published. The seal's time alone: by its own,
                # readers tell that a file was changed.
                os.utime(seal_path(target))
                if target.exists():
                    return False

        def begin(meta: SnapshotMeta) -> LmdbWriter:
            return LmdbWriter(target, meta, manifest.rows_out, self._codec, manifest.scope)

        fill(manifest, spec, lake, begin=begin, entity_hashes=self.entity_hashes).seal()
        return True

    def reseal(self, scope: Scope, view: str, snapshot: str) -> None:
        """Write a file anew under a new key of its own, in the place of the old one; whoever reads the old one goes on.

        Raises:
            CorruptionError: it is missing, or does not open.
            UnavailableError: the disk is full.
        """
        file = self.file(scope, view, snapshot)
        with closing(LmdbSnapshot(file, snapshot, self._codec, scope)) as before:
            writer = LmdbWriter(file, before.meta, before.size, self._codec, scope)
            copy_records(before.values(), writer)
            writer.seal(instead_of=before.seal)

    def values(self, scope: Scope, view: str, snapshot: str) -> Iterator[tuple[bytes, bytes]]:
        """Every key and clear value of a snapshot's file, to check it; raises ``CorruptionError`` when the file is
        missing, or it or a value does not open."""
        with closing(LmdbSnapshot(self.file(scope, view, snapshot), snapshot, self._codec, scope)) as opened:
            yield from opened.values()

    def key_of(self, scope: Scope, view: str, snapshot: str) -> str | None:
        """Id of the data key that seals a snapshot's own key; ``None`` for one in plaintext. Raises ``CorruptionError``
        when it has no seal."""
        try:
            key = read_seal(self.file(scope, view, snapshot)).key
        except (OSError, msgspec.DecodeError) as error:
            raise CorruptionError(f"The online file of {snapshot} has no seal.", where="online store") from error
        return None if key is None else unpack(base64.b64decode(key)).key_id

    def scopes(self) -> list[Scope]:
        """Every scope that has a folder here."""
        folders = sorted(folder for folder in self._root.glob("[!.]*/*") if folder.is_dir())
        return [Scope(folder.parent.name, folder.name) for folder in folders]

    def files(self, scope: Scope) -> Iterator[tuple[str, str]]:
        """Every sealed file of a scope, as (view, snapshot)."""
        for file in sorted((self._root / scope.tenant / scope.environment).glob("*/*.mdb")):
            if not file.name.startswith("."):
                yield file.parent.name, file.stem

    def open(self, scope: Scope, view: str, snapshot: str) -> LmdbSnapshot:
        """The snapshot, opened once per process."""
        found = self._opened.get((scope, view, snapshot))
        if found is not None:
            return found
        with self._lock:
            found = self._opened.get((scope, view, snapshot))
            if found is None:
                file = self.file(scope, view, snapshot)
                try:
                    found = LmdbSnapshot(file, snapshot, self._codec, scope)
                except CorruptionError:
                    # Between its check and its opening the file may have been replaced by one of the same content.
                    found = LmdbSnapshot(file, snapshot, self._codec, scope)
                self._opened[scope, view, snapshot] = found
            return found

    def whole(self, scope: Scope, view: str, snapshot: str) -> bool:
        """Tell whether the snapshot's file has the bytes that its seal names; all of it is read."""
        return is_whole(self.file(scope, view, snapshot), snapshot)

    def condemn(self, scope: Scope, view: str, snapshot: str) -> bool:
        """Take a damaged snapshot out of use, so that it is built again; whether it is damaged. All of it is read."""
        file = self.file(scope, view, snapshot)
        with self._lock:
            opened = self._opened.get((scope, view, snapshot))
        damaged = opened is not None and not opened.whole
        # Read without the lock, for which a publisher would wait; what was put in place since is another file.
        found = _identity(file)
        if not is_whole(file, snapshot):
            damaged = True
            with suppress(FileNotFoundError), one_at_a_time(file.parent):
                if _identity(file) == found:
                    seal_path(file).unlink(missing_ok=True)
        if damaged:
            with self._lock:
                if self._opened.get((scope, view, snapshot)) is opened:
                    self._opened.pop((scope, view, snapshot), None)
        return damaged

    def collect(self, scope: Scope, keep: Iterable[tuple[str, str]], older_than: float) -> list[str]:
        """Delete sealed files not among (view, snapshot) of ``keep`` and unfinished ones, both only when written
        before ``older_than`` (seconds since 1970), or spared since. A process that still has one open keeps its
        pages."""
        kept = {self.file(scope, view, snapshot) for view, snapshot in keep}
        kept |= {seal_path(file) for file in kept}
        gone = []
        for file in sorted((self._root / scope.tenant / scope.environment).glob("*/*")):
            if file in kept or not file.is_file() or _changed(seal_path(file)) >= older_than:
                continue
            if delete_older(file, older_than):
                gone.append(str(file.relative_to(self._root)))
        return gone

    def erase(self, tenant: str) -> int:
        """Delete everything of a tenant, streamed events too, in all environments; how many files there were. A process
        that has one open keeps its pages until it closes it."""
        folder = self._root / tenant
        count = sum(file.is_file() for file in folder.rglob("*"))
        remove_folder(folder)
        return count

    def close(self) -> None:
        """Close every opened snapshot."""
        with self._lock:
            for snapshot in self._opened.values():
                snapshot.close()
            self._opened.clear()


def _identity(file: Path) -> tuple[int, int, int, int] | None:
    """Identity and state of the file of a name: device, inode, size and time of change."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _changed(file: Path) -> float:
    """The time of a file's last change (seconds since 1970); before all times when there is none."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return float("-inf")
