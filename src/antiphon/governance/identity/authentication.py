"""A bearer's text to a principal: an API key or an issuer's token, told apart by their form."""

from __future__ import annotations

from antiphon.core.errors import UnauthenticatedError
from antiphon.governance.identity.keys import PREFIX, Keys
from antiphon.governance.identity.principal import Principal
from antiphon.governance.identity.tokens import BearerTokens


class Authenticator:
    """Authenticates the sender of ``Authorization: Bearer``; without ``tokens`` of an issuer by API keys only."""

    def __init__(self, keys: Keys, tokens: BearerTokens | None = None) -> None:
        self._keys = keys
        self._tokens = tokens

    def authenticate(self, text: str) -> Principal:
        """Authenticate a bearer's text. May read the catalog, and the issuer's keys over the network.

        Raises:
            UnauthenticatedError: it is neither a valid key nor a valid token.
            UnavailableError: what is needed to say so is away.
        """
        if text.startswith(PREFIX) or self._tokens is None:
            return self._keys.authenticate(text)
        if text.count(".") == 2:
            return self._tokens.authenticate(text)
        raise UnauthenticatedError(
            "What was sent is neither an API key nor a token.",
            where="Authorization",
            next_step="Send `Authorization: Bearer` and an API key (`ak_…`) or a JWT of the configured issuer.",
        )

    def remembered(self, text: str) -> Principal | None:
        """The principal of a bearer's text if it is cached; reads nothing."""
        if text.startswith(PREFIX):
            return self._keys.remembered(text)
        return None if self._tokens is None else self._tokens.remembered(text)
