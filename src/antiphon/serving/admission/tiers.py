"""Which tier a request gets: whoever may ask for one, by their key."""

from __future__ import annotations

from antiphon.core.errors import ForbiddenError
from antiphon.governance.identity.principal import Principal
from antiphon.serving.request import Tier


def granted(asked: str | None, principal: Principal) -> Tier:
    """The tier of a request that asked for ``auto``, ``default``, ``flex``, ``priority`` or for none.

    Raises:
        ForbiddenError: ``priority``, and the key is not allowed it.
    """
    if asked == "flex":
        return "flex"
    if asked != "priority":
        return "default"
    if not principal.allowance.priority:
        raise ForbiddenError(
            f"{principal.id} may not go ahead of others.",
            where="service_tier",
            next_step="Leave it out, or ask an administrator for a key with `--priority`.",
        )
    return "priority"
