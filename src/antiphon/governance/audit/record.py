"""One audit record: canonical bytes without payloads, and identities that can be erased later.

Invariants: what may name a person (principal, originating user, subject, detail) is in the leaf only as a commitment
``SHA-256(salt ‖ field ‖ 0x00 ‖ text)`` with 16 random bytes of salt each, so that the leaf stays what it was when
text and salt are erased, and nobody finds the text by trying; details have allow-listed names and short values; what
looks like a credential is struck out of every text, because records stay for good.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypedDict, cast, get_args

import msgspec

from antiphon.core.clock import from_microseconds
from antiphon.core.errors import CorruptionError, InvalidInputError
from antiphon.core.ids import canonical
from antiphon.core.logs import without_credentials
from antiphon.core.scope import Scope
from antiphon.governance.audit.merkle import leaf_hash

Detail = Mapping[str, Any] | None
Outcome = Literal["done", "denied", "failed"]
Field = Literal["principal", "originator", "subject", "detail"]

_OUTCOMES = get_args(Outcome)

FIELDS: tuple[Field, ...] = get_args(Field)
"""The parts of a record that are committed to and can be erased."""

VERSION = 1
SALT_BYTES = 16
LONGEST_NAME = 512
LONGEST_VALUE = 500
MOST_ITEMS = 16

IDENTIFIERS = frozenset(
    {
        "action", "alias", "application", "approver", "author", "by", "candidate", "clear", "clearance", "control",
        "data_key", "dataset", "digest", "environment", "evaluation", "format", "grantee", "hash", "input",
        "input_hash", "job", "key", "key_id", "kind", "left", "method", "mode", "model", "name", "output", "owner",
        "parent", "path", "peer", "policies", "policy", "prediction", "previous", "proposal", "provider", "publication",
        "purpose", "receipt", "release", "resource", "role", "rollout", "route", "run", "scopes", "session", "sha256",
        "state", "status", "stream", "tenant", "trace", "version", "view", "views", "workflow",
    }
)  # fmt: skip
HASHES = frozenset({"digest", "hash", "input_hash", "sha256"})
COUNTS = frozenset(
    {
        "after", "bytes", "count", "deleted", "delta", "errors", "events", "examples", "first", "forced", "items",
        "keys", "last", "limit", "number", "payloads", "precompute", "quota", "reencrypt", "rows", "seconds", "seed",
        "share", "size", "step", "through", "to",
    }
)  # fmt: skip
MOMENTS = frozenset({"as_of", "at", "before", "cutoff", "expires_at", "from", "moment", "since", "until"})
REASONS = frozenset({"code", "errors", "message", "outcome", "rationale", "reason", "why"})
ALLOWED = IDENTIFIERS | COUNTS | MOMENTS | REASONS
"""Names that a detail may have. Another name is kept in ``omitted``, without its value."""


class Act(msgspec.Struct, frozen=True):
    """Something that was done or denied, before it has a place in the log."""

    scope: Scope
    at: int
    principal: str
    action: str
    subject: str
    outcome: Outcome
    detail: str
    originator: str | None = None


class ActOptions(TypedDict, total=False):
    """More about an act: the user on whose behalf it was done, and how it ended (``done`` when it is left out)."""

    originator: str | None
    outcome: Outcome


class AuditEntry(msgspec.Struct, frozen=True):
    """One record of the log; ``None`` stands for what was erased.

    Attributes:
        sequence: counts per scope from 0.
        erased: which parts were.
        leaf: the leaf's hash, hex.
    """

    scope: Scope
    sequence: int
    at: datetime
    principal: str | None
    originator: str | None
    action: str
    subject: str | None
    outcome: Outcome
    detail: dict[str, Any] | None
    erased: tuple[str, ...]
    leaf: str


class AuditRow(msgspec.Struct, frozen=True, array_like=True):
    """The columns of ``audit_entries`` after tenant and environment, in their order."""

    sequence: int
    at: int
    principal: str | None
    principal_salt: bytes | None
    originator: str | None
    originator_salt: bytes | None
    subject: str | None
    subject_salt: bytes | None
    detail: str | None
    detail_salt: bytes | None
    action: str
    outcome: str
    erased: bytes | None
    leaf: bytes


def act(
    scope: Scope,
    at: int,
    principal: str,
    action: str,
    subject: str,
    detail: Detail = None,
    *,
    originator: str | None = None,
    outcome: Outcome = "done",
) -> Act:
    """A checked act; ``at`` is in microseconds since 1970.

    Raises:
        InvalidInputError: a name is longer than :data:`LONGEST_NAME`, or the outcome is none.
    """
    # Every answer and every reading comes through here: what is compared first is what is so nearly always.
    if not (
        0 < len(principal) <= LONGEST_NAME and 0 < len(action) <= LONGEST_NAME and 0 < len(subject) <= LONGEST_NAME
    ):
        raise _not_a_name(principal=principal, action=action, subject=subject)
    if outcome not in _OUTCOMES:
        raise InvalidInputError(f"{outcome!r} is no outcome.", where="outcome", next_step=f"Use {_OUTCOMES}.")
    kept = canonical(allowed(detail)).decode() if detail else "{}"
    return Act(
        scope,
        at,
        written(principal),
        written(action),
        written(without_credentials(subject)),
        outcome,
        kept,
        None if originator is None else written(originator),
    )


def _not_a_name(**names: str) -> InvalidInputError:
    where, text = next((where, text) for where, text in names.items() if not 0 < len(text) <= LONGEST_NAME)
    return InvalidInputError(
        f"An audit record's {where} has {len(text)} characters.",
        where=where,
        next_step=f"Name it in 1 to {LONGEST_NAME} characters.",
    )


def allowed(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Detail as it is recorded: allow-listed names; numbers, moments and short texts; of longer lists their length."""
    kept = {
        name: written(value) if name in HASHES and isinstance(value, str) else _value(value)
        for name, value in detail.items()
        if name in ALLOWED and value is not None
    }
    if len(kept) == len(detail):
        return kept
    omitted = sorted(str(name)[:40] for name in detail if name not in ALLOWED)
    return {**kept, "omitted": _value(omitted)} if omitted else kept


def written(text: str) -> str:
    """Text as the log writes it: a lone surrogate, from a header or a file's name, becomes a question mark."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def row(one: Act, sequence: int) -> AuditRow:
    """The act in its place, with fresh salts."""
    salt = os.urandom(4 * SALT_BYTES)
    for_originator = salt[16:32] if one.originator is not None else None
    commits = {
        "principal": commitment("principal", salt[:16], one.principal),
        "originator": None if one.originator is None else commitment("originator", salt[16:32], one.originator),
        "subject": commitment("subject", salt[32:48], one.subject),
        "detail": commitment("detail", salt[48:], one.detail),
    }
    content = record(one.scope, sequence, one.at, one.action, one.outcome, commits)
    return AuditRow(
        sequence, one.at, one.principal, salt[:16], one.originator, for_originator, one.subject, salt[32:48],
        one.detail, salt[48:], one.action, one.outcome, None, leaf_hash(content),
    )  # fmt: skip


def record(
    scope: Scope, sequence: int, at: int, action: str, outcome: str, commitments: Mapping[str, str | None]
) -> bytes:
    """The bytes a leaf hashes: JSON with sorted names and no spaces; what may name a person as commitments (hex)."""
    return canonical(
        {
            "action": action,
            "at": at,
            "environment": scope.environment,
            "outcome": outcome,
            "sequence": sequence,
            "tenant": scope.tenant,
            "version": VERSION,
            **commitments,
        }
    )


def commitment(field: str, salt: bytes, text: str) -> str:
    """Commitment that a leaf holds in place of an identity, in hex."""
    return hashlib.sha256(salt + field.encode() + b"\x00" + text.encode()).hexdigest()


def commitments(of: AuditRow) -> dict[str, str | None]:
    """The commitments of a stored row by field: recomputed, or as kept where the text is erased.

    Raises:
        ValueError: the row is damaged.
    """
    erased = gone(of)
    found: dict[str, str | None] = {}
    for field, text, salt in committed(of):
        if text is not None and salt is not None and field not in erased:
            found[field] = commitment(field, salt, text)
        elif text is None and salt is None and (field in erased or field == "originator"):
            found[field] = erased.get(field)
        else:
            raise ValueError(f"{field} is neither there nor erased")
    return found


def gone(of: AuditRow) -> dict[str, str]:
    """The commitments of what was erased."""
    return msgspec.json.decode(of.erased, type=dict[str, str]) if of.erased is not None else {}


def committed(of: AuditRow) -> tuple[tuple[Field, str | None, bytes | None], ...]:
    """Field, text and salt of each part that is committed to."""
    return tuple((field, getattr(of, field), getattr(of, f"{field}_salt")) for field in FIELDS)


def content(scope: Scope, of: AuditRow) -> bytes:
    """The canonical bytes of a stored row.

    Raises:
        ValueError: the row is damaged.
    """
    return record(scope, of.sequence, of.at, of.action, of.outcome, commitments(of))


def entry(scope: Scope, of: AuditRow) -> AuditEntry:
    """The row as it is shown.

    Raises:
        CorruptionError: the row is damaged.
    """
    try:
        return AuditEntry(
            scope=scope,
            sequence=of.sequence,
            at=from_microseconds(of.at),
            principal=of.principal,
            originator=of.originator,
            action=of.action,
            subject=of.subject,
            outcome=cast(Outcome, of.outcome),
            detail=msgspec.json.decode(of.detail) if of.detail is not None else None,
            erased=tuple(sorted(gone(of))),
            leaf=of.leaf.hex(),
        )
    except (AttributeError, TypeError, ValueError, OverflowError, msgspec.DecodeError) as error:
        raise damaged(f"Record {of.sequence} of the audit log is damaged.") from error


def damaged(what: str) -> CorruptionError:
    """The error about a log that does not hold."""
    return CorruptionError(what, where="audit", next_step="Run `antiphon audit verify`.")


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return written(without_credentials(value[:LONGEST_VALUE]))
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple | set | frozenset):
        items = list(value)
        if len(items) <= MOST_ITEMS and all(isinstance(item, str | int) for item in items):
            return [_value(item) for item in items]
        return f"{len(items)} items"
    if isinstance(value, Mapping):
        return f"{len(value)} fields"
    return written(without_credentials(str(value)[:LONGEST_VALUE]))
