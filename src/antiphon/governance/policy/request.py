"""Requests to policy and its decisions as plain values, without the policy engine."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Literal

import msgspec

from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.sensitivity import UNTAGGED, Sensitivity

Action = Literal[
    "answer",
    "feedback",
    "administer",
    "publish",
    "release",
    "batch",
    "read",
    "train",
    "export",
    "promote",
    "force",
    "audit",
    "propose",
    "approve",
    "see",
    "read_source_rows",
]
LEVELS: dict[str, int] = {"public": 0, "internal": 1, "confidential": 2, "restricted": 3}
"""Rank of sensitivities and clearances, for comparing them."""

CONTEXT = ("purpose", "path", "environment", "originator")
"""Texts that a policy may read of a request's context; a missing one is the empty text."""


class PolicyColumn(msgspec.Struct, frozen=True):
    """A feature that is read. ``purposes`` is ``None`` when it may serve any purpose."""

    name: str
    sensitivity: Sensitivity = UNTAGGED
    purposes: tuple[str, ...] | None = None


class Resource(msgspec.Struct, frozen=True, cache_hash=True):
    """Object of an action. Make it once for what stays the same: its hash is cached.

    Attributes:
        kind, name: such as ``application`` and ``flight-desk``.
        tenant: whose it is; ``None``: the principal's own.
        columns: the features that are read when it is answered from, trained on or exported.
        trained_for: purposes that its model was trained for; ``None``: a model that was not trained here.
        author: who made it; ``passed``: it passed its gates; ``reasoned``: a rationale stands beside the request.
        granted_to: the tenant that its owner's grant in force lets read it; empty for none.
        models: models of other tenants that answer it, as ``OWNER/APPLICATION.vN``.
    """

    kind: str
    name: str
    tenant: str | None = None
    columns: tuple[PolicyColumn, ...] = ()
    trained_for: tuple[str, ...] | None = None
    author: str = ""
    passed: bool = False
    reasoned: bool = False
    granted_to: str = ""
    models: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


class Effective(msgspec.Struct, frozen=True, cache_hash=True):
    """A resource as one principal meets it: what its visible columns come to."""

    resource: Resource
    tenant: str
    sensitivity: int = 0
    limited: bool = False
    purposes: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True):
    """Decision of the policies in force.

    Attributes:
        policies: ids of the policies that decided; empty when none matched.
        digest: of the policies in force.
        errors: what could not be evaluated, each of which denies.
        masked: columns that are to be read as absent.
    """

    allowed: bool
    policies: tuple[str, ...]
    digest: str
    errors: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Reason in a few words: an evaluation error, the policies that decided, or that none did."""
        if self.errors:
            return f"policy could not be evaluated ({self.errors[0]})"
        return ", ".join(self.policies) or "no policy permits it"


class PolicyRow(msgspec.Struct, frozen=True):
    """Entity of a request, and its moment (seconds since 1970)."""

    keys: Mapping[str, str]
    as_of: int = 0


@lru_cache(maxsize=16_384)
def resource_of(text: str) -> Resource:
    """``application/flight-desk`` as a resource without further facts."""
    kind, _, name = text.partition("/")
    return Resource(kind, name)


def effective(resource: Resource, tenant: str, visible: Iterable[PolicyColumn]) -> Effective:
    """Combine the visible columns: the highest sensitivity, and the purposes that all of them allow."""
    columns = tuple(visible)
    limits = [frozenset(column.purposes) for column in columns if column.purposes is not None]
    common: frozenset[str] = limits[0].intersection(*limits[1:]) if limits else frozenset()
    return Effective(
        resource=resource,
        tenant=tenant,
        sensitivity=max((LEVELS[column.sensitivity] for column in columns), default=0),
        limited=bool(limits),
        purposes=tuple(sorted(common)),
    )


def view_columns(view: FeatureViewSpec, used: Collection[str]) -> tuple[PolicyColumn, ...]:
    """Columns of the features that are used of a view; of one that declares no tags all are one column."""
    if not view.tags:
        return (PolicyColumn(f"{view.name}.*"),)
    return tuple(
        PolicyColumn(f"{view.name}.{one}", tag.sensitivity, tag.purposes)
        for one, tag in sorted(view.tags.items())
        if one in used
    )


FEATURE_PURPOSE = "feature-purpose"
"""The default policy that keeps features to the purposes that they are declared for."""


def purpose_to_name(policies: Collection[str], resource: Resource | str, purpose: object) -> str | None:
    """Next step after a refusal for a purpose: the purposes that are declared. ``None`` when the purpose is not the
    reason, or is the application's own."""
    if FEATURE_PURPOSE not in policies:
        return None
    if not isinstance(resource, Resource) or resource.kind == "application":
        return None
    limited = effective(resource, "", resource.columns)
    if not limited.limited or purpose in limited.purposes:
        return None
    if not limited.purposes:
        return "No purpose may use all of these features together: ask for fewer of them at a time."
    given = f"and {purpose!r} is given" if purpose else "and none is given"
    return (
        f"These features are declared for {' and '.join(limited.purposes)}, {given}: name what it is for "
        f"(--purpose {limited.purposes[0]}, `purpose` over HTTP and in Python)."
    )


def application_resource(
    application: ApplicationSpec, *, tenant: str | None = None, trained_for: tuple[str, ...] | None = None
) -> Resource:
    """An application with every feature that it reads; a view that declares no tags is one column, ``VIEW.*``."""
    tagged = {name.partition(".")[0] for name in application.tags}
    columns = [PolicyColumn(name, tags.sensitivity, tags.purposes) for name, tags in sorted(application.tags.items())]
    columns += [PolicyColumn(f"{view}.*") for view in sorted(application.versions) if view not in tagged]
    models = application.granted_models
    return Resource("application", application.name, tenant, tuple(columns), trained_for, models=models)
