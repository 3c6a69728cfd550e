"""Invariants of the audit log: numbers without a gap, and the root that RFC 6962 defines over the leaves."""

from __future__ import annotations

import hashlib

from tests.simulation.process import Process, Violation
from tests.simulation.world import World

from antiphon.core.scope import Scope
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.verification import verify


def check_log(process: Process, scope: Scope, secret: bytes) -> None:
    """Holds a scope's whole log against its head; raises :class:`Violation`."""
    database, owner = process.world.connection(), (scope.tenant, scope.environment)
    where = "WHERE tenant = ? AND environment = ?"
    rows = database.execute(f"SELECT sequence, leaf FROM audit_entries {where} ORDER BY sequence", owner).fetchall()
    head = database.execute(f"SELECT size, peaks FROM audit_heads {where}", owner).fetchone() or (0, b"")
    if [number for number, _ in rows] != list(range(len(rows))):
        raise Violation(f"the audit log has a gap: {[number for number, _ in rows]}")
    peaks = b"".join(_peaks([leaf for _, leaf in rows]))
    if head != (len(rows), peaks):
        raise Violation(
            f"the head of the audit log is of {head[0]} records, there are {len(rows)}, or its root is wrong"
        )
    found = verify(AuditLog(process.database, secret), scope)
    if not found.sound:
        raise Violation(f"the audit log does not verify: {found.problems}")


def _peaks(leaves: list[bytes]) -> list[bytes]:
    """Roots of the complete subtrees that the binary digits of the number of leaves name, largest first."""
    found, start = [], 0
    for level in reversed(range(len(leaves).bit_length())):
        if len(leaves) >> level & 1:
            found.append(_root(leaves[start : start + (1 << level)]))
            start += 1 << level
    return found


def _root(leaves: list[bytes]) -> bytes:
    """The Merkle tree hash of RFC 6962, section 2.1, written as it stands there; leaves are hashed already."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _root(leaves[:split]) + _root(leaves[split:])).digest()


class AuditObserver:
    """Holds the numbers of every scope's log against its head after every commit."""

    def __init__(self, world: World) -> None:
        self._database = world.connection()
        world.observers.append(self)

    def __call__(self, process: Process) -> None:
        counted = (
            "SELECT tenant, environment, count(*), max(sequence) + 1 FROM audit_entries GROUP BY 1, 2 ORDER BY 1, 2"
        )
        entries = self._database.execute(counted).fetchall()
        heads = self._database.execute("SELECT tenant, environment, size FROM audit_heads ORDER BY 1, 2").fetchall()
        if [row[:3] for row in entries] != heads or any(number != last for _, _, number, last in entries):
            raise Violation(f"the audit heads are {heads}, the records {entries}")
