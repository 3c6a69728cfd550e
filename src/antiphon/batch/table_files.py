"""Names of files that tables are read from, as patterns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path


def patterns(root: Path, path: str) -> Iterator[str]:
    """Patterns of what a source's path names: a file, several, or what lies in a folder.

    Args:
        root: the project's folder, which is no pattern whatever its name holds.
    """
    declared = Path(path)
    for place in (declared, declared.parent.resolve() / declared.name, declared.resolve()):
        yield from (escape(str(place)), f"{escape(str(place))}/*")
        for base in (root, root.resolve()):
            if place.is_relative_to(base):
                within = f"{escape(str(base))}/{place.relative_to(base)}"
                yield from (within, f"{within}/*")
                break
        else:
            yield from (str(place), f"{place}/*")


def matches(named: Iterable[str], path: Path) -> bool:
    """Tells whether a file without links in its path is one of these patterns."""
    # A name in other letters is the same file where the file system says so.
    return any(fnmatchcase(str(path).casefold(), pattern.casefold()) for pattern in named)
