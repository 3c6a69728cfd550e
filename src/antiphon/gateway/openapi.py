"""OpenAPI 3.1, generated from the same types that read and write the bodies."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import msgspec

from antiphon.gateway.feedback import Feedback, FeedbackResponse
from antiphon.gateway.health import Health, Readiness
from antiphon.gateway.http.problem import ProblemBody
from antiphon.gateway.lookup import FeatureLookupAnswer, FeatureLookupBody
from antiphon.gateway.openai.embeddings import EmbeddingList, EmbeddingParameters
from antiphon.gateway.openai.files import FileObject
from antiphon.gateway.openai.parameters import ChatParameters, CompletionParameters
from antiphon.gateway.openai.responses.parameters import ResponseParameters
from antiphon.gateway.openai.responses.shapes import STREAMED_EVENTS, ModelResponse
from antiphon.gateway.openai.shapes import ChatChunk, ChatCompletion, Completion, Model, ModelList
from antiphon.gateway.operation import AtomFeed, HtmlPage, Operation
from antiphon.gateway.tokenizer import (
    DetokenizationResponse,
    DetokenizeBody,
    TokenizationResponse,
    TokenizeBody,
    TokenizerInfo,
    TokenizerQuery,
)
from antiphon.learning.outcomes.submission import OutcomeSubmission
from antiphon.releases.feed import MEDIA_TYPE

_TEMPLATE = "#/components/schemas/{name}"
_NO_JSON: dict[Any, dict[str, Any]] = {
    bytes: {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    HtmlPage: {"text/html": {"schema": {"type": "string"}}},
    AtomFeed: {MEDIA_TYPE: {"schema": {"type": "string"}}},
}
_FILE_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "purpose": {"type": "string", "enum": ["batch"]},
                    "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                    "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                },
            }
        }
    },
}


class _Route(NamedTuple):
    """One method of a path: what it takes and gives back."""

    method: str
    path: str
    name: str
    summary: str
    description: str
    answer: Any
    body: Any = None
    query: Any = None
    status: int = 200


_ROUTES = (
    _Route("post", "/v1/chat/completions", "v1_chat_completions", "Answer a conversation.",
           "The answer; a stream of events with `stream: true`.", ChatCompletion, ChatParameters),
    _Route("post", "/v1/completions", "v1_completions", "Continue a text.",
           "The answer; a stream of events with `stream: true`.", Completion, CompletionParameters),
    _Route("post", "/v1/responses", "v1_responses", "Answer a turn of a conversation.",
           "The answer; a stream of named events with `stream: true`.", ModelResponse, ResponseParameters),
    _Route("post", "/v1/embeddings", "embeddings", "Vectors of texts.", "A vector of each text.",
           EmbeddingList, EmbeddingParameters),
    _Route("post", "/tokenize", "tokenize", "A text's tokens.", "Them.", TokenizationResponse, TokenizeBody),
    _Route("post", "/detokenize", "detokenize", "The text of tokens.", "It.", DetokenizationResponse, DetokenizeBody),
    _Route("get", "/tokenizer_info", "tokenizer_info", "How a model reads texts.", "It.", TokenizerInfo,
           query=TokenizerQuery),
    _Route("post", "/v1/feedback", "feedback", "Say what became of predictions.", "What became of each.",
           FeedbackResponse, OutcomeSubmission),
    _Route("post", "/v1/features/lookup", "features_lookup", "Feature values of many entities.",
           "Values, with where they come from.", FeatureLookupAnswer, FeatureLookupBody),
    _Route("post", "/v1/files", "file_create", "Take a file in.", "It.", FileObject),
    _Route("get", "/v1/files/{file}/content", "file_content", "What a file holds.", "Its bytes.", bytes),
    _Route("get", "/v1/models", "models", "What may be asked.", "Names.", ModelList),
    _Route("get", "/v1/models/{model}", "model", "One of them.", "Its name.", Model),
    _Route("get", "/healthz", "healthz", "The process answers.", "It does.", Health),
    _Route("get", "/readyz", "readyz", "Questions can be answered.", "Part by part.", Readiness),
)  # fmt: skip


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The whole document. Every path that the gateway serves with JSON is in it."""
    routes = [*_ROUTES, *map(_route, operations)]
    types: list[Any] = [ProblemBody, ChatChunk, Feedback, *STREAMED_EVENTS]
    named = (kind for route in routes for kind in (route.answer, route.body, route.query) if kind is not None)
    types += [kind for kind in named if kind not in _NO_JSON]
    schemas, components = msgspec.json.schema_components(types, ref_template=_TEMPLATE)
    schema = dict(zip(types, schemas, strict=True))
    problem = {"description": "What was wrong, where, and what to do next.", "content": _json(schema[ProblemBody])}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        answer = {
            "description": route.description,
            "content": _NO_JSON.get(route.answer) or _json(schema[route.answer]),
        }
        described: dict[str, Any] = {"summary": route.summary, "operationId": route.name}
        described["responses"] = {str(route.status): answer, "default": problem}
        described["parameters"] = _parameters(route)
        if route.body is not None:
            described["requestBody"] = {"required": True, "content": _json(schema[route.body])}
        paths.setdefault(route.path, {})[route.method] = described
    for operation in operations:
        if operation.action is not None:
            paths[operation.path][operation.method.lower()]["x-antiphon-action"] = operation.action
    streams = {
        "/v1/chat/completions": schema[ChatChunk],
        "/v1/completions": schema[Completion],
        "/v1/responses": {"oneOf": [schema[event] for event in STREAMED_EVENTS]},
    }
    for path, streamed in streams.items():
        paths[path]["post"]["responses"]["200"]["content"]["text/event-stream"] = {"schema": streamed}
    either = {"oneOf": [schema[OutcomeSubmission], schema[Feedback]]}
    paths["/v1/feedback"]["post"]["requestBody"]["content"] = _json(either)
    paths["/v1/files"]["post"]["requestBody"] = _FILE_FORM
    of_a_range = {"description": "A range of them.", "content": _NO_JSON[bytes]}
    paths["/v1/files/{file}/content"]["get"]["responses"]["206"] = of_a_range
    ready = paths["/readyz"]["get"]["responses"]
    ready["503"] = ready["200"]
    for path in ("/healthz", "/readyz"):
        paths[path]["get"]["security"] = []
    return {
        "openapi": "3.1.0",
        "info": {"title": "Antiphon", "version": _version()},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}],
    }


def _route(operation: Operation) -> _Route:
    description = "A page." if operation.answer is HtmlPage else "Done."
    return _Route(
        operation.method.lower(), operation.path, operation.name, operation.summary, description, operation.answer,
        operation.body, operation.query, operation.status,
    )  # fmt: skip


def _parameters(route: _Route) -> list[dict[str, Any]]:
    in_path = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    parameters = [_parameter(name, "path", {"type": "string"}, True) for name in in_path]
    if route.query is not None:
        described = msgspec.json.schema(route.query)["$defs"][route.query.__name__]
        required = described.get("required", [])
        parameters += [
            _parameter(name, "query", kind, name in required) for name, kind in described["properties"].items()
        ]
    return parameters


def _parameter(name: str, place: str, schema: dict[str, Any], required: bool) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": schema}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _version() -> str:
    try:
        return version("antiphon")
    except PackageNotFoundError:
        return "0"
