"""Nearest neighbors among the entities of a view."""

from __future__ import annotations

from typing import Annotated

import msgspec

from antiphon.features.embedding.neighbors import MOST, NeighborQuery, Neighbors
from antiphon.gateway.admin.feature_watch import may_publish
from antiphon.gateway.bounds import Number
from antiphon.gateway.operation import Operation, OperationCall


class NeighborsRequest(msgspec.Struct, frozen=True):
    """Neighbors of a text, of an entity's own text, or of a vector with the model that made it; what for; and in
    which publication (the current one)."""

    feature: str
    text: str | None = None
    entity: dict[str, str] | None = None
    vector: tuple[float, ...] | None = None
    model: str | None = None
    top: Annotated[int, msgspec.Meta(ge=1, le=MOST)] = 10
    publication: Number | None = None
    purpose: str = ""


def _neighbors(call: OperationCall) -> Neighbors:
    body: NeighborsRequest = call.body
    view = call.path["view"]
    question = NeighborQuery(
        feature=body.feature,
        text=body.text,
        entity=body.entity,
        vector=body.vector,
        model=body.model,
        top=body.top,
        number=body.publication,
    )
    return call.services.features.neighbors.find(
        call.scope,
        call.principal,
        view,
        question,
        purpose=body.purpose,
        # Which entities they are is for those who may publish the view; others get what stands for them.
        see_keys=may_publish(call.services, call.principal, view),
    )


OPERATIONS = (
    Operation(
        "POST", "/admin/features/{view}/neighbors", "The entities whose texts are nearest to a text.", "answer",
        Neighbors, _neighbors, body=NeighborsRequest,
    ),
)  # fmt: skip
