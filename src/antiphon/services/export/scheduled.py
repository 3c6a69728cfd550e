"""Exports as durable runs: a step for each file, which is written whole and never again.

A run chooses the versions that are not exported yet, and writes their files one after another. It gives way in the
midst of a file, whose rows are read again later; files that are done stay. A version's folder has ``_SUCCESS`` once all
of its files are there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.exported_files import ExportedFile
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.definitions.exports import ExportWork
from antiphon.durable.context import RunContext
from antiphon.features.exports.files import RowWriter
from antiphon.governance.identity.principal import Principal, orderer
from antiphon.services.batches import table_objects
from antiphon.services.export.export import encrypted
from antiphon.services.export.rows import ExportedSources, ExportVersion, Position, most_rows
from antiphon.services.export.targets import SUCCESS, ExportTargets, digest_of
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store
from antiphon.services.workflows import EXPORT

_LISTED = 100
"""Files that a run's result names; all of them stand in its steps."""


class ExportOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run of an export; ``again``: the latest version is written also where it was exported before."""

    export: str
    work: ExportWork
    principal: str
    again: bool = False


class WrittenFile(msgspec.Struct, frozen=True):
    """A file that a step wrote; at ``position`` the next one begins, ``None``: it was the last one."""

    path: str
    sha256: str
    rows: int
    withheld: int
    bytes: int
    position: Position = None


class _HaltedError(Exception):
    """The run gives way, or has ended: what was written of the file is dropped."""


class ScheduledExports:
    """Orders and runs the exports of one project."""

    def __init__(self, store: Store, features: FeaturePlatform) -> None:
        self._store = store
        self._features = features
        self._sources = ExportedSources(store, features)
        self._targets = ExportTargets(store, features.source_files, table_objects(store))

    def order(
        self, scope: Scope, by: Principal, export: str, work: ExportWork, key: str, *, again: bool = False
    ) -> str:
        """Submit a run; its id.

        Args:
            again: write the latest version also where it was exported before.

        Raises:
            ForbiddenError: policy does not let this principal export it. ConflictError: the project is encrypted, and
                clear text was not asked for. NotFoundError: there is nothing to export.
        """
        self._require(work, by)
        self._sources.versions(work)
        order = ExportOrder(export, work, by.id, again)
        return self._store.runs.submit(scope, EXPORT, msgspec.to_builtins(order), key=key)

    async def run(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Write the versions that are not exported yet, the oldest first, then remove what is kept no longer.

        Raises:
            ForbiddenError, ConflictError: as :meth:`order`, also while it runs.
            UnavailableError: a disk is full, or a store is away; it is tried again, from the file that it had come to.
            InvalidInputError: a place holds what no export wrote.
        """
        order = msgspec.convert(arguments, ExportOrder)
        chosen = msgspec.convert(await run.step("choose", self._choose, order), list[ExportVersion])
        files, total = list[WrittenFile](), _total(chosen)
        if not chosen:
            run.progress(0, 0, self._sources.nothing_new(order.work))
        for number, version in enumerate(chosen):
            await run.transaction(f"record {version.id}", partial(self._record, order, version, run.id))
            files += await self._version(run, order, version, files, total)
            run.progress(_rows(files), total, f"{number + 1} of {len(chosen)} versions")
        removed = await run.step("remove", self._remove, order) if order.work.keep is not None else 0
        return {
            "versions": [version.id for version in chosen],
            "files": len(files),
            "rows": _rows(files),
            "withheld": sum(one.withheld for one in files),
            "bytes": sum(one.bytes for one in files),
            "written": [one.path for one in files[:_LISTED]],
            "removed": removed,
        }

    async def _version(
        self, run: RunContext, order: ExportOrder, version: ExportVersion, before: Sequence[WrittenFile],
        total: int | None,
    ) -> list[WrittenFile]:  # fmt: skip
        """Write the files of a version, a step each."""
        files: list[WrittenFile] = []
        if order.work.is_folder:
            await run.step(f"begin {version.id}", self._begin, order, version)
        while not files or files[-1].position is not None:
            position, halt = (files[-1].position if files else None), threading.Event()
            done = _rows([*before, *files])

            def tell(rows: int, done: int = done) -> None:
                run.progress(done + rows, total, f"{order.work.asset} {version.id}")

            def halted(halt: threading.Event = halt) -> bool:
                return halt.is_set() or run.stopping

            write = partial(self._write, run.id, order, version, len(files), position, tell, halted)
            try:
                made = await run.step(f"write {version.id} {len(files)}", write)
            except _HaltedError:
                raise asyncio.CancelledError from None
            finally:
                halt.set()  # A thread goes on after its task was canceled: it ends at the next rows.
            files.append(msgspec.convert(made, WrittenFile))
        await run.step(f"finish {version.id}", self._finish, run.id, order, version, tuple(files))
        return files

    def _choose(self, order: ExportOrder) -> list[dict[str, Any]]:
        """The versions that are not exported yet, as they are now."""
        work = order.work
        self._require(work, orderer(order.principal, self._store.scope.tenant))
        versions = self._sources.versions(work)[-work.keep if work.keep is not None else None :]
        known, definition = self._store.exported_files.list(self._store.scope, order.export), _definition(work)
        done = {(one.path, one.version) for one in known if one.definition == definition}
        last = versions[-1:] if order.again else []
        left = [one for one in versions if one in last or (self._last_file(work, one), one.id) not in done]
        return [msgspec.to_builtins(one) for one in left]

    def _last_file(self, work: ExportWork, version: ExportVersion) -> str:
        """The file that is put in place last of a version."""
        place = work.place(version.id, version.day, SUCCESS if work.is_folder else "")
        return self._targets.resolved(place)

    def _require(self, work: ExportWork, by: Principal) -> None:
        if self._features.lake.sealed and not work.clear:
            raise encrypted(work.to, "clear=True in its declaration")
        self._sources.require(work, by)

    def _record(self, order: ExportOrder, version: ExportVersion, run: str, connection: Connection) -> None:
        # Told before the first byte leaves: an export that fails was still allowed.
        work, store = order.work, self._store
        detail = {
            "kind": work.kind, "version": version.id, "format": work.format, "path": work.to,
            "clear": str(self._features.lake.sealed).lower(), "policy": store.decider.digest, "run": run,
        }  # fmt: skip
        subject = work.asset if work.kind == "view" else f"application/{work.name.partition('/')[0]}"
        action = _ACTIONS[work.kind]
        store.audit.append(store.scope, order.principal, action, subject, detail, within=connection)

    def _write(
        self,
        run: str,
        order: ExportOrder,
        version: ExportVersion,
        number: int,
        position: Position,
        tell: Callable[[int], None],
        halted: Callable[[], bool],
    ) -> dict[str, Any]:
        """Write one file; a crash before its record is made up for by the same file again."""
        work, by = order.work, orderer(order.principal, self._store.scope.tenant)
        place = work.place(version.id, version.day, f"part-{number:05}.{work.format}" if work.is_folder else "")
        self._targets.require(place)
        source = self._sources.open(work, version, by, position)
        most = work.rows_per_file - most_rows(work) if work.is_folder else None
        withheld, at, more = 0, position, False
        with self._targets.draft(place) as draft:
            with (
                draft.open("xb") as stream,
                RowWriter(stream, work.format, source.schema, source.properties) as writer,
            ):
                for batch in source.batches:
                    if halted():
                        raise _HaltedError
                    if most is not None and writer.rows + withheld > most:
                        more = True
                        break
                    writer.write(batch.rows)
                    withheld, at = withheld + batch.withheld, batch.position
                    tell(writer.rows)
            if halted():
                raise _HaltedError
            written = self._put(draft, run, order, version, place, writer.rows)
        made = WrittenFile(written.path, written.sha256, writer.rows, withheld, written.bytes, at if more else None)
        return msgspec.to_builtins(made)  # type: ignore[no-any-return]

    def _put(
        self, draft: Any, run: str, order: ExportOrder, version: ExportVersion, place: str, rows: int
    ) -> ExportedFile:
        sha256, size = digest_of(draft)
        path, definition, now = self._targets.resolved(place), _definition(order.work), self._store.database.clock.now()
        file = ExportedFile(path, sha256, order.export, version.id, definition, run, rows, size, now)
        self._targets.put(draft, file)
        return file

    def _begin(self, order: ExportOrder, version: ExportVersion) -> None:
        """A version that is written again is not whole until it is said anew."""
        last = self._last_file(order.work, version)
        for file in self._store.exported_files.list(self._store.scope, order.export, version.id):
            if file.path == last:
                self._targets.remove(file)

    def _finish(self, run: str, order: ExportOrder, version: ExportVersion, files: Sequence[WrittenFile]) -> None:
        """Say that a folder is whole, and remove what an earlier declaration wrote of this version elsewhere."""
        work, own = order.work, {one.path for one in files}
        if work.is_folder:
            place = work.place(version.id, version.day, SUCCESS)
            self._targets.require(place)
            said = {
                "asset": work.asset, "version": version.id, "day": version.day, "rows": _rows(files),
                "files": [
                    {"name": one.path.partition("?")[0].rpartition("/")[2], "rows": one.rows, "bytes": one.bytes,
                     "sha256": one.sha256}
                    for one in files
                ],
            }  # fmt: skip
            with self._targets.draft(place) as draft:
                draft.write_bytes(msgspec.json.encode(said) + b"\n")
                own.add(self._put(draft, run, order, version, place, 0).path)
        for file in self._store.exported_files.list(self._store.scope, order.export, version.id):
            if file.path not in own:
                self._targets.remove(file)

    def _remove(self, order: ExportOrder) -> int:
        """Remove the files of versions that are kept no longer; how many there were."""
        known = self._store.exported_files.list(self._store.scope, order.export)
        latest = sorted({one.version for one in known}, reverse=True)  # Days by their name.
        if order.work.kind != "predictions":
            latest = list(dict.fromkeys(one.version for one in known))
        kept = set(latest[: order.work.keep])
        return sum(self._targets.remove(file) for file in known if file.version not in kept)


_ACTIONS = {
    "view": "features.export", "predictions": "predictions.export", "dataset": "datasets.export",
    "answers": "answers.export",
}  # fmt: skip


def _definition(work: ExportWork) -> str:
    """The hash of what is exported and how; how much is kept is no part of it."""
    return content_hash(msgspec.to_builtins(msgspec.structs.replace(work, keep=None)))[:32]


def _rows(files: Sequence[WrittenFile]) -> int:
    return sum(one.rows for one in files)


def _total(versions: Sequence[ExportVersion]) -> int | None:
    """The rows of all versions, where they are all counted."""
    counted = [one.total for one in versions if one.total is not None]
    return sum(counted) if len(counted) == len(versions) else None
