"""Principals, the limits and quotas of their credentials, and the users they may originate requests for.

Invariant: a credential never gives more than its principal's role. :meth:`Limits.refusal` is asked by the decider
before any policy, so that what a key is not for is denied everywhere in one way and explained like a policy.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

import msgspec

from antiphon.core.errors import ForbiddenError, InvalidInputError
from antiphon.core.token_bucket import Meter

Role = Literal["admin", "engineer", "service", "viewer", "conductor", "playbook"]
"""``conductor`` is the role of schedules, ``playbook`` of playbooks: no key and no token has them."""

Kind = Literal["person", "service"]
Clearance = Literal["public", "internal", "confidential", "restricted"]

ORIGINATE = "originate"
"""Action that a restricted key needs to name the user on whose behalf it acts."""

KEY_SCOPE = "key-scope"
"""Stands where a policy's id would, when the key itself is not for what was asked."""

TOKEN = "token:"
"""Prefix of the id of a token's principal: ``token:ISSUER#SUBJECT``."""

SCHEDULE = "schedule:"
"""Prefix of the id of a declared schedule, which orders runs in its own name."""

PLAYBOOK = "playbook:"
"""Prefix of the id of a playbook, which acts in its own name."""

TERMINAL = "@terminal"
"""Suffix of the local user's id."""

REVOKED = "credential-revoked"
"""Stands there when the key was revoked, or its principal disabled, after work in its name was ordered."""

REQUESTS, TOKENS, TOKENS_DAY = "requests_per_minute", "tokens_per_minute", "tokens_per_day"
LARGEST_QUOTA = 1_000_000_000_000
_ORIGINATING_ROLES = frozenset({"admin", "engineer", "service"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._:|+-]{0,127}\Z")
# OpenAI's `user` is whatever its sender calls a user; only what could break a line or hide in one is refused.
_ORIGINATOR = re.compile(r"[^\W_][!-~]{0,127}\Z", re.ASCII)
_TOKEN = re.compile(r"token:[A-Za-z0-9._:/~-]{1,255}#[A-Za-z0-9][A-Za-z0-9@._:|+-]{0,127}\Z")
_RESOURCE = re.compile(r"[a-z]{1,32}/(\*|[^\s/*]{1,200})\Z")


class Limits(msgspec.Struct, frozen=True):
    """Limits of one credential, beside what its principal's role permits.

    Attributes:
        actions: policy actions, and ``originate``; empty is every one.
        resources: ``kind/name`` or ``kind/*``, such as ``application/flight-desk``; empty is every one.
    """

    actions: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()

    def refusal(self, action: str, resource: str) -> str | None:
        """Reason for which the credential is not for this; ``None`` when it is."""
        if self.actions and action not in self.actions:
            return f"its key is only for {', '.join(self.actions)}"
        if self.resources and not self._names(resource):
            return f"its key is only for {', '.join(self.resources)}"
        return None

    def covers(self, other: Limits) -> bool:
        """Tell whether these limits include the other ones."""
        if self.actions and not (other.actions and set(other.actions) <= set(self.actions)):
            return False
        return not self.resources or (bool(other.resources) and all(map(self._names, other.resources)))

    def _names(self, resource: str) -> bool:
        return resource in self.resources or f"{resource.partition('/')[0]}/*" in self.resources


NO_LIMITS = Limits()


def check_grant(granting: Limits, granted: Limits) -> None:
    """Refuse to give by a key what that key is not for itself: it would be a way out of its limits.

    Raises:
        ForbiddenError: the granting key is confined more than the one it would make.
    """
    if not granting.covers(granted):
        raise ForbiddenError(
            "A key cannot make a key that is for more than itself.",
            where="limits",
            next_step="Confine the new key at least as much, or use a key that is not confined.",
        )


class Allowance(msgspec.Struct, frozen=True):
    """Quotas of one API key; ``None`` is without bound.

    Attributes:
        requests_per_minute: of chat completions, completions and responses.
        tokens_per_minute, tokens_per_day: prompt and completion together; a day is one of UTC.
        priority: it may ask for ``service_tier: priority``.
        bucket: the key whose usage it goes on with, when that was rotated to it.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    priority: bool = False
    bucket: str = ""

    @property
    def meters(self) -> tuple[Meter, ...]:
        """Meters that measure its use."""
        return _meters(self.requests_per_minute, self.tokens_per_minute, self.tokens_per_day)


@lru_cache(maxsize=1_024)
def _meters(requests: int | None, tokens: int | None, tokens_day: int | None) -> tuple[Meter, ...]:
    found = ((REQUESTS, requests, 60.0), (TOKENS, tokens, 60.0), (TOKENS_DAY, tokens_day, 86_400.0))
    return tuple(
        Meter(name, capacity, seconds, calendar=name == TOKENS_DAY)
        for name, capacity, seconds in found
        if capacity is not None
    )


NO_ALLOWANCE = Allowance()
"""An allowance without bounds and without priority."""


class Principal(msgspec.Struct, frozen=True):
    """Person or service that signs in. ``id`` is the name its keys were made for.

    Attributes:
        clearance: the most sensitive features it may see.
        limits: of the credential it came with.
        credential: the id of its key, ``token`` for a JWT, empty for what needs none (a command at the terminal).
        allowance: what its key may use; only keys have quotas.
    """

    id: str
    tenant: str
    role: Role
    kind: Kind = "service"
    clearance: Clearance = "internal"
    limits: Limits = NO_LIMITS
    credential: str = ""
    allowance: Allowance = NO_ALLOWANCE

    @property
    def originates(self) -> bool:
        """True when it may name the user on whose behalf it asks."""
        actions = self.limits.actions
        return self.role in _ORIGINATING_ROLES and (not actions or ORIGINATE in actions)


_BUILT_IN = {
    "refresh": Limits(("publish",), ("view/*",)),
    "skew": Limits(("publish",), ("view/*",)),
    "drift": Limits(("train",), ("application/*",)),
}


def schedule_principal(tenant: str, schedule: str) -> Principal:
    """The identity in whose name a schedule orders; it comes with no credential. A built-in one, whose name is
    ``KIND:WHAT``, may do what its kind of work takes and nothing else."""
    kind, colon, _ = schedule.partition(":")
    limits = _BUILT_IN.get(kind, NO_LIMITS) if colon else NO_LIMITS
    return Principal(f"{SCHEDULE}{schedule}", tenant, "conductor", "service", "restricted", limits)


def playbook_principal(tenant: str, playbook: str, limits: Limits) -> Principal:
    """The identity in whose name a playbook acts; it comes with no credential, and may do what ``limits`` say: the
    actions that its steps take."""
    return Principal(f"{PLAYBOOK}{playbook}", tenant, "playbook", "service", "restricted", limits)


def orderer(principal: str, tenant: str) -> Principal:
    """The identity behind a run's order, by its id: a schedule, or a person who could read the project's secrets."""
    if principal.startswith(SCHEDULE):
        return schedule_principal(tenant, principal.removeprefix(SCHEDULE))
    return Principal(principal, tenant, "admin", "person", "restricted")


def token_principal(issuer: str, subject: str) -> str:
    """The id of whom an issuer's token names: it carries the issuer, so that no key's principal is ever the same."""
    return f"{TOKEN}{issuer.partition('://')[2].rstrip('/') or issuer}#{subject}"


def subject_of(principal: str) -> str | None:
    """The subject in the id of a token's principal; ``None`` for a key's."""
    return principal.partition("#")[2] if principal.startswith(TOKEN) else None


def reserved(name: str) -> str | None:
    """For whom a name is kept that no key may have; ``None``: it is free."""
    if name.startswith(TOKEN):
        return "tokens of an issuer"
    if name.startswith(SCHEDULE):
        return "declared schedules"
    return "whoever is at the terminal" if name.endswith(TERMINAL) else None


def check_key_name(name: str) -> None:
    """Refuse a principal's name that no key may speak for.

    Raises:
        InvalidInputError: it is kept for identities that have no keys.
    """
    if (kept := reserved(name)) is not None:
        raise InvalidInputError(
            f"{name!r} is kept for {kept}: no key is made for it.",
            where="name",
            next_step=f"Begin it with neither {TOKEN!r} nor {SCHEDULE!r}, and do not end it in {TERMINAL!r}.",
        )


def check_name(name: str) -> None:
    """Refuse what is not a principal's name, or the id of a token's.

    Raises:
        InvalidInputError: says which characters a name may have.
    """
    if _TOKEN.match(name):
        return
    if not _NAME.match(name):
        raise InvalidInputError(
            "The given name is not a principal's name." if len(name) > 128 else f"{name!r} is not a principal's name.",
            where="name",
            next_step="Use letters, digits and @ . _ : | + -, at most 128, first a letter or digit.",
        )


def check_limits(limits: Limits, actions: frozenset[str]) -> None:
    """Refuse limits that could never match; ``actions`` are those that policy knows.

    Raises:
        InvalidInputError: an unknown action, or a resource that is not ``kind/name``.
    """
    known = actions | {ORIGINATE}
    for action in limits.actions:
        if action not in known:
            raise InvalidInputError(
                f"{action!r} is not an action.", where="actions", next_step=f"Use some of {', '.join(sorted(known))}."
            )
    for resource in limits.resources:
        if not _RESOURCE.match(resource):
            raise InvalidInputError(
                f"{resource!r} is not a resource.",
                where="resources",
                next_step="Write kind/name or kind/*, such as application/flight-desk or stream/*.",
            )


def check_allowance(allowance: Allowance) -> None:
    """Refuse a quota that lets nothing in.

    Raises:
        InvalidInputError: names the quota that is not between 1 and a million millions.
    """
    for name in (REQUESTS, TOKENS, TOKENS_DAY):
        value: int | None = getattr(allowance, name)
        if value is not None and not 1 <= value <= LARGEST_QUOTA:
            raise InvalidInputError(
                f"{value} is no quota.",
                where=name,
                next_step=f"Use a number from 1 to {LARGEST_QUOTA}, or leave it out for no bound.",
            )


def originator(principal: Principal, *named: str | None) -> str | None:
    """The user on whose behalf a principal asks. It grants nothing: it stands in receipts, audit and policy context.

    Args:
        named: where a request may name one, in order (a header, a field of the body); all that do must agree.

    Raises:
        ForbiddenError: the principal may not speak for others.
        InvalidInputError: the name is malformed, or two places name two users.
    """
    given = {name for name in named if name is not None}
    if not given:
        return None
    if not principal.originates:
        raise ForbiddenError(
            f"{principal.id} ({principal.role}) may not ask on behalf of another user.",
            where="user",
            next_step=f"Leave the user out, or ask an administrator for a key that is for {ORIGINATE!r}.",
        )
    if len(given) > 1:
        raise InvalidInputError(
            "X-Antiphon-User and `user` name two users.", where="user", next_step="Send one of them, or the same twice."
        )
    name = given.pop()
    if not _ORIGINATOR.match(name):
        raise InvalidInputError(
            "The value of X-Antiphon-User or `user` is not a user's name.",
            where="user",
            next_step="Use at most 128 visible ASCII characters without spaces, first a letter or digit.",
        )
    return name
