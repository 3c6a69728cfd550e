"""Erases a person's name from the audit log and the ledger.

Invariant: each step may be repeated and does what is left, so that an erasure that was killed goes on when it is run
again.
"""

from __future__ import annotations

import msgspec

from antiphon.core.errors import ConflictError
from antiphon.core.scope import Scope
from antiphon.services.project.store import Store


class PersonErasure(msgspec.Struct, frozen=True):
    """Places of the log in which the name stood, and rows of the ledger that have their usage without it now."""

    erased: int
    ledger: int


def erase_person(store: Store, scope: Scope, name: str, *, principal: str, reason: str) -> PersonErasure:
    """Erase a name of a scope for good; what was done stays provable, and what was used stays in the sums.

    Raises:
        ConflictError: a budget of the person's keys is declared, which would lose what is spent of it.
        InvalidInputError: who erases is the one who is erased.
    """
    budgets = [one.name for one in store.budgets.list(scope) if one.kind == "key" and one.subject == name]
    if budgets:
        raise ConflictError(
            f"The budget {budgets[0]} is of the keys of {name}, by the name that is to be erased.",
            where="budgets",
            next_step=f"`antiphon budgets remove {budgets[0]} --reason TEXT`, once their keys are revoked.",
        )
    erased = store.audit.erase(scope, name, principal=principal, reason=reason)
    rows = 0
    while renamed := store.ledger.anonymize_principal(scope, name):
        rows += renamed
    store.database.erase_free_space()
    return PersonErasure(erased, rows)
