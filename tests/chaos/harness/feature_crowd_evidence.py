"""What is on disk of the crowd's project, read from outside: what ``feature_chaos_evidence`` finds, reasons, receipts.

A power cut is played here too: what was not synced is lost. Lives write down what they sync (``watch_syncs``).
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.chaos.harness.feature_chaos_evidence import Found, Looker, _opened

SYNCED = "synced.log"


class Crowded(Found, frozen=True, kw_only=True):
    """As :class:`Found`.

    Attributes:
        reasons: of each publication.
        receipts: prediction to when it was written (seconds since 1970) and the snapshots that it names.
        pruned_at: when a snapshot's files were given up (seconds since 1970).
        datasets: their ids.
    """

    reasons: dict[int, str]
    receipts: dict[str, tuple[float, tuple[str, ...]]]
    pruned_at: dict[str, float]
    datasets: frozenset[str]


class CrowdLooker(Looker):
    """Looks at a project that nothing runs on."""

    def look(self) -> Crowded:
        """Everything there is."""
        found = super().look()
        with closing(sqlite3.connect(f"file:{self._directory / 'catalog.db'}?mode=ro", uri=True)) as catalog:
            reasons = dict(catalog.execute("SELECT number, reason FROM publications ORDER BY number"))
            pruned_at = {
                one: at / 1e6
                for one, at in catalog.execute("SELECT id, pruned_at FROM snapshots WHERE pruned_at IS NOT NULL")
            }
            receipts = {
                prediction: (written / 1e6, tuple(sorted({one["snapshot"] for one in _opened(payload)["features"]})))
                for prediction, written, payload in catalog.execute(
                    "SELECT prediction, created_at, payload FROM receipts"
                )
            }
            datasets = frozenset(one for (one,) in catalog.execute("SELECT id FROM datasets"))
        fields = {name: getattr(found, name) for name in Found.__struct_fields__}
        return Crowded(**fields, reasons=reasons, receipts=receipts, pruned_at=pruned_at, datasets=datasets)


def watch_syncs(root: Path) -> None:
    """From now on this process writes down which files and folders it synced, and which files it removed."""
    log = os.open(root / SYNCED, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    sync: Callable[[int], None] = os.fsync
    remove: Callable[..., None] = os.unlink

    def watched(descriptor: int) -> None:
        sync(descriptor)
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            folder = os.readlink(f"/proc/self/fd/{descriptor}")
            with os.scandir(folder) as entries:
                lines = [f"named {one.inode()} {one.path}\n" for one in entries]
        else:
            lines = [f"synced {status.st_ino} {status.st_size}\n"]
        os.write(log, os.fsencode("".join(lines)))

    def removed(path: os.PathLike[str] | str, **where: int | None) -> None:
        os.write(log, os.fsencode(f"removed 0 {os.fspath(path)}\n"))
        remove(path, **where)

    vars(os).update(fsync=watched, unlink=removed)


def cut_power(root: Path) -> list[str]:
    """Lose what was not synced of lake and online store, as a power cut may: a file whose content was not is cut in
    half, one whose name was not is gone; which ones. Of a rename onto a name that was synced before, the old file or
    the new one is there afterwards, never none: here it is the new one. The databases (SQLite, LMDB) sync natively
    and are left as they are."""
    synced: set[tuple[str, str]] = set()
    names: set[str] = set()
    for line in os.fsdecode((root / SYNCED).read_bytes()).splitlines() if (root / SYNCED).exists() else ():
        what, inode, rest = line.split(" ", 2)
        match what:
            case "synced":
                synced.add((inode, rest))
            case "named":
                names.add(rest)
            case "removed":
                names.discard(rest)
    lost = []
    directory = root / ".antiphon"
    for path in [*(directory / "lake").glob("*/*/*/*"), *(directory / "online").glob("*/*/*/*")]:
        if not path.is_file() or ".scratch" in path.parts or path.name.startswith("."):
            continue
        status = path.stat()
        if str(path) not in names:
            path.unlink()
            lost.append(f"{path} (its name)")
        elif (str(status.st_ino), str(status.st_size)) not in synced:
            os.truncate(path, status.st_size // 2)
            lost.append(f"{path} (its content)")
    return lost
