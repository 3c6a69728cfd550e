"""Checks a whole log against its head, its kept nodes and every witnessed checkpoint, and names the first wrong record.

What is found: a changed record (it no longer gives its leaf), a changed leaf (the nodes above no longer fit), removal
and reorder (a record says its own number), a cut end (the head, sealed under the server's secret, or a witnessed
checkpoint), and another history (a witnessed checkpoint has another root). Erased names are no damage as long as
the log says that as many were erased.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import utf8
from antiphon.core.errors import AntiphonError, CorruptionError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.governance.audit.checkpoint import Checkpoint, parse
from antiphon.governance.audit.checkpoint_key import CheckpointKey
from antiphon.governance.audit.log import ERASE, AuditLog, Head
from antiphon.governance.audit.merkle import Node, Tree, leaf_hash
from antiphon.governance.audit.record import FIELDS, AuditRow, content, gone
from antiphon.governance.audit.rows import COLUMNS, shown

MOST_PROBLEMS = 20
LARGEST_GAP = 1_000_000
_BLOCK = 1_000


class Verification(msgspec.Struct, frozen=True):
    """Result of verifying a scope's log; sound when there are no ``problems``.

    Attributes:
        entries: records read; ``root`` (hex) is theirs.
        erased: names and details that were erased.
        checkpoints: witnessed ones that fit.
        first: sequence of the first wrong record, where it can be named.
    """

    scope: Scope
    entries: int
    root: str
    erased: int
    checkpoints: int
    problems: tuple[str, ...]
    first: int | None = None

    @property
    def sound(self) -> bool:
        """True when nothing was changed, removed, reordered, cut off or rewritten."""
        return not self.problems


class _LogProblems:
    """Problems in the order in which they are found."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._named: int | None = None
        self._around: int | None = None

    @property
    def first(self) -> int | None:
        """The first wrong record: one that was seen to be wrong itself, else the first of those that one is among."""
        return self._named if self._named is not None else self._around

    def add(self, problem: str, sequence: int | None = None, *, around: int | None = None) -> None:
        if sequence is not None and (self._named is None or sequence < self._named):
            self._named = sequence
        if around is not None and (self._around is None or around < self._around):
            self._around = around
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)
        elif len(self.problems) == MOST_PROBLEMS:
            self.problems.append("and more")


def verify(
    log: AuditLog, scope: Scope, *, key: CheckpointKey | None = None, checkpoints: Sequence[Checkpoint] = ()
) -> Verification:
    """Read the whole log of a scope and hold it against everything that is known of it.

    Args:
        key: whose signatures hold, and those of the keys before it; without one, checkpoints are held against the log
            and not against a key.
        checkpoints: witnessed ones of this scope, and any other that was kept.
    """
    found = _LogProblems()
    with log.database.read() as connection:
        head = _head(log, scope, connection, found)
        known = list(checkpoints)
        if head is not None and head.checkpoint:
            try:
                known.append(parse(head.checkpoint))
            except InvalidInputError:
                found.add("the checkpoint kept with the head is none")
        sizes = {one.size for one in known}
        tree, roots, erased, said = _read(log.database, scope, connection, sizes, found)
    if head is not None and head.tree != tree:
        if head.tree.size > tree.size:
            found.add(f"the head is at {head.tree.size} records, the log ends after {tree.size}", tree.size)
        elif head.tree.size < tree.size:
            found.add(f"record {head.tree.size} lies behind the head", head.tree.size)
        else:
            found.add("the records do not give the head's root")
    if erased != said:
        found.add(f"{erased} names or details are missing, the log says that {said} were erased")
    fitting = _against(known, roots, tree, scope, key, found)
    return Verification(scope, tree.size, tree.root.hex(), erased, fitting, tuple(found.problems), found.first)


def _head(log: AuditLog, scope: Scope, connection: Connection, found: _LogProblems) -> Head | None:
    try:
        return log.head(scope, within=connection)
    except CorruptionError as error:
        found.add(error.what)
    except (AntiphonError, TypeError, ValueError) as error:
        found.add(f"the head cannot be read: {error}")
    return None


def _read(
    database: Database, scope: Scope, connection: Connection, sizes: set[int], found: _LogProblems
) -> tuple[Tree, dict[int, bytes], int, int]:
    """The tree that the records give, its roots at these sizes, what is erased, and said to be."""
    tree, roots = Tree(), {0: Tree().root}
    erased = said = 0
    kept = _StoredNodes(scope, connection, found)
    for sequence, row in _rows(database, scope, connection):
        gap = sequence - tree.size
        if gap:
            missing = f"record {tree.size} is" if gap == 1 else f"records {tree.size} to {sequence - 1} are"
            found.add(f"{missing} missing" if gap > 0 else f"record {sequence} has no place", tree.size)
        if not 0 <= gap <= LARGEST_GAP:
            break
        leaf = b""
        if row is not None:
            try:
                leaf = leaf_hash(content(scope, row))
                erased += len(gone(row))
                if row.action == ERASE:
                    said += int(msgspec.json.decode(row.detail or "{}")["count"])
            except (ValueError, KeyError, TypeError, msgspec.MsgspecError):
                leaf = b""
        if row is None or leaf != row.leaf:
            found.add(f"record {sequence} was changed", sequence)
        # The tree goes on over the stored leaf, so that one wrong record is not told of every node above it; a missing
        # one has a place in it, so that what follows is held against the right sizes.
        for leaf in (*[b""] * gap, row.leaf if row is not None else b""):
            tree, nodes = tree.extended([leaf])
            kept.compare(nodes)
            if tree.size in sizes:
                roots[tree.size] = tree.root
    kept.end()
    return tree, roots, erased, said


_TEXTS = (*FIELDS, "action", "outcome")


def _rows(database: Database, scope: Scope, connection: Connection) -> Iterator[tuple[int, AuditRow | None]]:
    """Numbers and rows in order, ``None`` for one that does not have the form of a record.

    Texts are read as bytes: one that is no UTF-8 any more is a finding and not a failure. Nor is a user that does not
    open: what stands for it is not what the leaf commits to.
    """
    table = schema.audit_entries
    columns = [utf8(column) if column.name in _TEXTS else column for column in COLUMNS]
    statement = select(*columns).where(schema.owned(table, scope)).order_by(table.c.sequence)
    for raw in connection.execute(statement.execution_options(yield_per=_BLOCK)):
        try:
            *values, sealed = raw
            row = msgspec.convert([_decoded(value, at) for at, value in enumerate(values)], AuditRow)
            if sealed is not None:
                row = shown(database, scope, (*msgspec.structs.astuple(row), sealed))
            yield raw[0], row
        except (msgspec.ValidationError, UnicodeDecodeError):
            yield raw[0], None


_TEXT_AT = frozenset(at for at, name in enumerate(AuditRow.__struct_fields__) if name in _TEXTS)


def _decoded(value: Any, at: int) -> Any:
    return value.decode() if at in _TEXT_AT and isinstance(value, bytes) else value


class _StoredNodes:
    """Compares kept nodes, level by level, with those that the records give."""

    def __init__(self, scope: Scope, connection: Connection, found: _LogProblems) -> None:
        self._found = found
        table = schema.audit_nodes
        statement = select(table.c.level, table.c.position, table.c.hash).where(schema.owned(table, scope))
        statement = statement.order_by(table.c.position).execution_options(yield_per=_BLOCK)
        levels = connection.execute(
            select(table.c.level).where(schema.owned(table, scope)).distinct().order_by(table.c.level)
        )
        self._levels: dict[int, Iterator[Any]] = {
            level: iter(connection.execute(statement.where(table.c.level == level))) for (level,) in levels.all()
        }

    def compare(self, nodes: Iterable[Node]) -> None:
        """The nodes that became complete with a record."""
        for node in nodes:
            stored = next(self._levels.get(node.level, iter(())), None)
            if stored is None or tuple(stored) != msgspec.structs.astuple(node):
                start, end = node.position << node.level, (node.position + 1 << node.level) - 1
                self._found.add(f"records {start} to {end} are not those of the node above them", around=start)

    def end(self) -> None:
        """No node may be left that no record gives."""
        for level, rest in self._levels.items():
            if (more := next(rest, None)) is not None:
                self._found.add(f"node {more[1]} of level {level} stands over records that are not there")


def _against(
    known: Sequence[Checkpoint], roots: dict[int, bytes], tree: Tree, scope: Scope, key: CheckpointKey | None,
    found: _LogProblems,
) -> int:  # fmt: skip
    fitting, agreed = 0, 0
    for one in sorted(known, key=lambda each: each.size):
        if key is not None and one.origin != key.origin(scope):
            found.add(f"a checkpoint of {one.size} records is of {one.origin}, another log")
        elif key is not None and not key.signed(one):
            found.add(f"the checkpoint of {one.size} records does not carry this installation's signature")
        elif one.size > tree.size:
            found.add(
                f"the log was cut: a checkpoint of {one.size} records is witnessed, it has {tree.size}", tree.size
            )
        elif roots[one.size] != one.root:
            found.add(
                f"another history: records {agreed} to {one.size - 1} are not those of the checkpoint of {one.size}",
                around=agreed,
            )
        else:
            fitting, agreed = fitting + 1, one.size
    return fitting
