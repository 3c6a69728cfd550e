"""A plain model name is a built-in application with an implicit release: same function, same receipt."""

from __future__ import annotations

import json
from datetime import datetime

import msgspec

from antiphon.catalog.releases.releases import Bundle, ModelPin, Release
from antiphon.core.errors import InvalidInputError, NotFoundError, UnavailableError
from antiphon.core.ids import content_hash
from antiphon.core.suggestions import nearest
from antiphon.definitions.application import SLO, ApplicationSpec, Decoding, Reuse
from antiphon.definitions.learning import Rollout
from antiphon.definitions.prompt import Prompt
from antiphon.engine.api.messages import ModelDescription
from antiphon.serving.ports import ReleaseAssignment
from antiphon.serving.request import AnswerRequest, DecodingOverrides

BUILTIN = "builtin_"
"""The ids of implicit releases begin with it; none of them is kept."""

PLAIN_PURPOSE = "plain-model"
"""Purpose of a request that names a model which was trained for none."""

PLAIN_DECODING = Decoding(max_tokens=256, temperature=0.7, top_p=0.95)
"""Default decoding of a plain model."""


def implicit_release(
    request: AnswerRequest,
    model: ModelDescription,
    moment: datetime,
    fallback: tuple[str, ...] = (),
    purpose: str = PLAIN_PURPOSE,
) -> Release:
    """The release that serves a model as it is, with the request's own decoding; ``fallback`` is of every such model.

    Raises:
        InvalidInputError: neither messages nor a prompt, or entity keys for a model that knows none.
    """
    if not request.messages and request.prompt is None and not request.prompt_ids:
        raise InvalidInputError("There is nothing to answer.", where="messages", next_step="Send at least one message.")
    if request.entity:
        raise InvalidInputError(f"{model.name} is a plain model and takes no entity.", where="entity")
    schema = request.overrides.json_schema
    application = ApplicationSpec(
        name=model.name,
        features={},
        entity_keys=(),
        prompt=Prompt(template=""),
        model=model.name,
        decoding=_decoding(request.overrides),
        output_schema=None if schema is None else json.dumps(schema),
        classes=(),
        figures=(),
        guards=(),
        freshness={},
        reuse=Reuse(mode="never", identical_prompts=False),
        slo=SLO(),
        rollout=Rollout(),
        purpose=purpose,
        owner="",
        fallback=fallback,
    )
    bundle = Bundle(application=application, model=ModelPin(model.name, None), policy_digest="")
    digest = content_hash(bundle)
    return Release(
        id=f"{BUILTIN}{digest[:16]}",
        scope=request.scope,
        number=0,
        bundle=bundle,
        content_hash=digest,
        stage="live",
        author="antiphon",
        rationale="a plain model",
        created_at=moment,
    )


def _decoding(overrides: DecodingOverrides) -> Decoding:
    named = {name: getattr(overrides, name) for name in Decoding.__struct_fields__}
    given = {name: value for name, value in named.items() if value is not None}
    return msgspec.structs.replace(PLAIN_DECODING, **given)


def unanswered(releases: ReleaseAssignment, request: AnswerRequest) -> UnavailableError | NotFoundError:
    """The error of a request for an application without a release, or for a name that nothing has."""
    if releases.awaited(request.scope, request.application):
        return UnavailableError(
            f"No release of {request.application} has passed its gates yet, so none answers.",
            where="model",
            next_step="`antiphon status` says how far they are; `antiphon releases list` has the releases.",
        )
    listed = "`GET /v1/models` lists what can be asked."
    return NotFoundError(
        f"There is no application or model named {request.application!r}.",
        where="model",
        next_step=f"{nearest(request.application, releases.applications(request.scope))} {listed}".strip(),
    )
