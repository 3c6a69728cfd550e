"""Versions of files that workflows read: hashes of the content of files, entity tags of objects of a store.

Invariant: a version changes with the content. The other way about holds for files; an object that is written again with
the same content may have another tag where it was sent in other parts.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from glob import escape
from pathlib import Path

import msgspec

from antiphon.core.disk import file_sha256
from antiphon.core.ids import content_hash
from antiphon.definitions.assets import Asset
from antiphon.definitions.objects import ObjectPath, ObjectStore, store_of
from antiphon.definitions.source import SourceSpec, local_paths
from antiphon.features.sources.stored_objects import matching_keys, present

_log = logging.getLogger(__name__)


def file_version(folder: Path, named: str) -> str | None:
    """The hash of the content of a file, of all files of a folder, or of those that a pattern names; ``None`` where
    there is none. Names count from the folder, so that it is the same on every host."""
    found = []
    # The folder is no pattern, whatever its name holds.
    path = named if Path(named).is_absolute() else f"{escape(str(folder))}/{named}"
    for place in local_paths(path):
        for file in sorted(one for one in place.rglob("*") if one.is_file()) if place.is_dir() else [place]:
            try:
                stat = file.stat()
                version = _hash(str(file), stat.st_size, stat.st_ino, stat.st_mtime_ns)
            except OSError as error:  # It vanished meanwhile, or may not be read: as good as not there.
                _log.warning("%s cannot be read: %s.", file, error.strerror)
                continue
            found.append((str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file), version))
    if len(found) < 2:
        return found[0][1] if found else None
    return content_hash(found)[:32]


@lru_cache(maxsize=65_536)
def _hash(path: str, size: int, inode: int, changed: int) -> str:
    """The hash of a file as it is by its size, number and time of change; it is read once for each."""
    return file_sha256(Path(path))[:32]


def object_versions(asset: Asset, fallback: ObjectStore) -> Mapping[str, str]:
    """Versions of objects of a store by partition (an empty one where the asset has none), by one listing for all.

    Args:
        fallback: the store of objects whose path names none.

    Raises:
        SetupError: the store refuses access, or there is no such bucket. UnavailableError: it does not answer.
    """
    placeholder = "" if asset.partitions is None else f"{{{asset.partitions.parameter}}}"
    path = ObjectPath.of(asset.name)
    pattern = path.pattern.replace(placeholder, "*") if placeholder else path.pattern
    store = store_of(path, ObjectStore(), fallback)
    place = msgspec.structs.replace(path, pattern=pattern, options={})
    named = _named(path.pattern, placeholder)
    found: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for one in present(SourceSpec(str(place), "table", "", path=str(place), store=store)):
        if (matched := named.fullmatch(one.key)) is not None:
            found[matched["partition"] if placeholder else ""].append((one.key, one.version))
    return {
        partition: parts[0][1][:32] if len(parts) == 1 else content_hash(parts)[:32]
        for partition, parts in found.items()
    }


def _named(pattern: str, placeholder: str) -> re.Pattern[str]:
    """The keys that a pattern means, with what stands for its placeholder as ``partition``."""
    text = matching_keys(pattern.rstrip("/")).pattern
    if pattern.endswith("/"):
        text += "/.+"
    if placeholder:
        text = text.replace(re.escape(placeholder), "(?P<partition>[^/]+)", 1)
        text = text.replace(re.escape(placeholder), "(?P=partition)")
    return re.compile(text, re.DOTALL)
