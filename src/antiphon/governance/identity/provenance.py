"""The makers of an identity: a key's, its principal's, theirs, and so on.

Invariant: outside of ``dev`` an approval is another person's. An identity that the proposer made, or made the maker of,
is the proposer's own hand: whoever made it once held its secret. An issuer's tokens are made by the issuer.
"""

from __future__ import annotations

from antiphon.core.errors import ForbiddenError
from antiphon.core.scope import Scope
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.versions import DEVELOPMENT


class IdentityProvenance:
    """Reads who made identities of a tenant."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def makers(self, who: Principal) -> frozenset[str]:
        """The ids of all principals that this identity, with the credential it came with, goes back to."""
        keys = self._keys.list(who.tenant)
        own = [record.made_by for record in keys if record.id == who.credential]
        principals = {one.id: one.makers for one in self._keys.principals.list(who.tenant)}
        known: set[str] = set()
        found = [*own, *(principals.get(who.id, ()) if own else ())]
        while found:
            maker = found.pop()
            if maker is None or maker in known:
                continue
            known.add(maker)
            found += [*principals.get(maker, ()), *(record.made_by for record in keys if record.name == maker)]
        return frozenset(known - {who.id})

    def require_another(self, scope: Scope, author: str, by: Principal, what: str) -> None:
        """Refuse an approval by the author, or by an identity that the author made; anything goes in ``dev``.

        Raises:
            ForbiddenError: it is one.
        """
        if scope.environment == DEVELOPMENT:
            return
        if by.id == author:
            why = f"{what} is {author}'s own"
        elif author in self.makers(by):
            why = f"{what} is {author}'s, who made the identity {by.id}"
        else:
            return
        raise ForbiddenError(
            f"{why}: another person must approve it.",
            where="policy",
            next_step="Ask an administrator whose key another one made, or who signs in at the issuer.",
        )

    def has_another(self, tenant: str, author: str) -> bool:
        """Tell whether an administrator with a valid key could approve what this author does."""
        now = self._keys.newest.now()
        return any(
            record.role == "admin"
            and record.refusal(now) is None
            and record.name != author
            and author not in self.makers(record.principal)
            for record in self._keys.list(tenant)
        )
