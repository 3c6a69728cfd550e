"""Whether batch and online agree about a view."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from antiphon.core.errors import Forbidden
from antiphon.features.skew_report import SkewReport
from antiphon.gateway.operation import Call, Operation
from antiphon.gateway.ports import GatewayServices
from antiphon.governance.principal import Principal


class Comparison(msgspec.Struct, frozen=True):
    """How much is compared: entities of the view, and as many predictions that were made ``since`` then; online
    readings ``as_of`` when (now), and for how many seconds at most."""

    sample: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50
    seconds: Annotated[float, msgspec.Meta(ge=1, le=60)] = 20.0
    since: datetime | None = None
    as_of: datetime | None = None


class LastSkew(msgspec.Struct, frozen=True):
    """What the last comparison of this gateway found about a view; ``None``: there was none."""

    view: str
    report: SkewReport | None


def _last(call: Call) -> LastSkew:
    view = call.path["view"]
    found = call.services.watched().skew.last(call.scope)
    if found is None:
        return LastSkew(view, None)
    features = tuple(one for one in found.features if one.view == view)
    found = msgspec.structs.replace(
        found,
        features=features,
        compared=sum(one.compared for one in features),
        different=sum(one.different for one in features),
    )
    return LastSkew(view, found if may_publish(call.services, call.principal, view) else found.without_entities())


def _skew(call: Call) -> SkewReport:
    wanted: Comparison = call.body
    return call.services.watched().skew.measure(
        call.scope,
        [call.path["view"]],
        as_of=wanted.as_of,
        since=wanted.since,
        sample=wanted.sample,
        seconds=wanted.seconds,
    )


def may_publish(services: GatewayServices, who: Principal, view: str) -> bool:
    """Whether policy lets somebody publish a view: they may see whose values differ, and order work."""
    try:
        services.authorise(who, "publish", f"view/{view}")
    except Forbidden:
        return False
    return True


OPERATIONS = (
    Operation(
        "GET", "/admin/features/{view}/skew", "What the last comparison of batch and online found.", "read", LastSkew,
        _last,
    ),
    # It is up to a minute of work and names entities: for those who may publish the view.
    Operation(
        "POST", "/admin/features/{view}/skew", "Compare what is read online with what batch computes.", "publish",
        SkewReport, _skew, body=Comparison,
    ),
)  # fmt: skip
