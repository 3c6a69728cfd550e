"""OpenAPI 3.1, generated from the same types that read and write the bodies."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from antiphon.gateway.feedback import Feedback, FeedbackResponse
from antiphon.gateway.health import Health, Readiness
from antiphon.gateway.lookup import FeatureLookupAnswer, FeatureLookupBody
from antiphon.gateway.openai.batch_shapes import BatchCreate, BatchObject, BatchPage, BatchQuery
from antiphon.gateway.openai.embeddings import EmbeddingList, EmbeddingParameters
from antiphon.gateway.openai.file_shapes import FileDeletion, FileList, FileObject, FileQuery
from antiphon.gateway.openai.parameters import ChatParameters, CompletionParameters
from antiphon.gateway.openai.shapes import ChatChunk, ChatCompletion, Completion, Model, ModelList
from antiphon.gateway.operation import EmptyBody, Operation
from antiphon.gateway.problem import ProblemBody
from antiphon.gateway.tokenizer import (
    DetokenizationResponse,
    DetokenizeBody,
    TokenizationResponse,
    TokenizeBody,
    TokenizerInfo,
    TokenizerQuery,
)
from antiphon.learning.outcomes.submission import OutcomeSubmission

_TEMPLATE = "#/components/schemas/{name}"
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


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The whole document. Every path that the gateway serves with JSON is in it."""
    types: list[Any] = [ProblemBody, ChatParameters, ChatCompletion, ChatChunk, CompletionParameters, Completion]
    types += [
        EmbeddingParameters,
        EmbeddingList,
        TokenizeBody,
        TokenizationResponse,
        DetokenizeBody,
        DetokenizationResponse,
        TokenizerInfo,
    ]
    types += [
        Model,
        ModelList,
        Health,
        Readiness,
        OutcomeSubmission,
        Feedback,
        FeedbackResponse,
        FeatureLookupBody,
        FeatureLookupAnswer,
        FileObject,
        FileList,
        FileDeletion,
        FileQuery,
        BatchCreate,
        BatchObject,
        BatchPage,
        BatchQuery,
    ]
    types += [operation.answer for operation in operations]
    types += [operation.body for operation in operations if operation.body is not None]
    types += [operation.query for operation in operations]
    schemas, components = msgspec.json.schema_components(types, ref_template=_TEMPLATE)
    schema = {id(kind): made for kind, made in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}

    def add(path: str, method: str, summary: str, name: str, answers: dict[str, Any], **more: Any) -> None:
        paths.setdefault(path, {})[method] = {
            "summary": summary,
            "operationId": name,
            "responses": {
                **answers,
                "default": _json("What was wrong, where, and what to do next.", schema[id(ProblemBody)]),
            },
            **more,
        }

    def body(kind: Any) -> dict[str, Any]:
        return {"required": True, "content": {"application/json": {"schema": schema[id(kind)]}}}

    for path, kind, answer, chunk, summary in (
        ("/v1/chat/completions", ChatParameters, ChatCompletion, ChatChunk, "Answer a conversation."),
        ("/v1/completions", CompletionParameters, Completion, Completion, "Continue a text."),
    ):
        answered = _json("The answer; a stream of events with `stream: true`.", schema[id(answer)])
        answered["content"]["text/event-stream"] = {"schema": schema[id(chunk)]}
        add(path, "post", summary, path.strip("/").replace("/", "_"), {"200": answered}, requestBody=body(kind))
    vectors = {"200": _json("A vector of each text.", schema[id(EmbeddingList)])}
    add("/v1/embeddings", "post", "Vectors of texts.", "embeddings", vectors, requestBody=body(EmbeddingParameters))
    responses = {"200": _json("Them.", schema[id(TokenizationResponse)])}
    add("/tokenize", "post", "A text's tokens.", "tokenize", responses, requestBody=body(TokenizeBody))
    responses = {"200": _json("It.", schema[id(DetokenizationResponse)])}
    add("/detokenize", "post", "The text of tokens.", "detokenize", responses, requestBody=body(DetokenizeBody))
    responses = {"200": _json("It.", schema[id(TokenizerInfo)])}
    add("/tokenizer_info", "get", "How a model reads texts.", "tokenizer_info", responses,
        parameters=_queried(TokenizerQuery))  # fmt: skip
    feedback = body(OutcomeSubmission)
    feedback["content"]["application/json"]["schema"] = {"oneOf": [schema[id(OutcomeSubmission)], schema[id(Feedback)]]}
    taken = _json("What became of each.", schema[id(FeedbackResponse)])
    add("/v1/feedback", "post", "Say what became of predictions.", "feedback", {"200": taken}, requestBody=feedback)
    found = {"200": _json("Values, with where they come from.", schema[id(FeatureLookupAnswer)])}
    add("/v1/features/lookup", "post", "Feature values of many entities.", "features_lookup", found,
        requestBody=body(FeatureLookupBody))  # fmt: skip
    file = _parameter("file", "path", {"type": "string"}, True)
    add("/v1/files", "post", "Take a file in.", "file_create", {"200": _json("It.", schema[id(FileObject)])},
        requestBody=_FILE_FORM)  # fmt: skip
    add("/v1/files", "get", "Files, newest first.", "file_list", {"200": _json("A page.", schema[id(FileList)])},
        parameters=_queried(FileQuery))  # fmt: skip
    add("/v1/files/{file}", "get", "One file.", "file_retrieve", {"200": _json("It.", schema[id(FileObject)])},
        parameters=[file])  # fmt: skip
    add("/v1/files/{file}", "delete", "Remove a file and its content.", "file_delete",
        {"200": _json("It is gone.", schema[id(FileDeletion)])}, parameters=[file])  # fmt: skip
    octets = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    sent = {"200": {"description": "Its bytes.", "content": octets}, "206": {"description": "A range of them.",
            "content": octets}}  # fmt: skip
    add("/v1/files/{file}/content", "get", "What a file holds.", "file_content", sent, parameters=[file])
    batch = _parameter("batch", "path", {"type": "string"}, True)
    one = {"200": _json("It.", schema[id(BatchObject)])}
    add("/v1/batches", "post", "Answer every request of a file.", "v1_batch_create", one, requestBody=body(BatchCreate))
    page = {"200": _json("A page.", schema[id(BatchPage)])}
    add("/v1/batches", "get", "Batches, newest first.", "v1_batch_list", page,
        parameters=_queried(BatchQuery))  # fmt: skip
    add("/v1/batches/{batch}", "get", "One batch with its counts.", "v1_batch_retrieve", one, parameters=[batch])
    add("/v1/batches/{batch}/cancel", "post", "Ask a batch to stop.", "v1_batch_cancel", one, parameters=[batch])
    add("/v1/models", "get", "What may be asked.", "models", {"200": _json("Names.", schema[id(ModelList)])})
    add(
        "/v1/models/{model}",
        "get",
        "One of them.",
        "model",
        {"200": _json("Its name.", schema[id(Model)])},
        parameters=[_parameter("model", "path", {"type": "string"}, True)],
    )
    add(
        "/healthz",
        "get",
        "The process answers.",
        "healthz",
        {"200": _json("It does.", schema[id(Health)])},
        security=[],
    )
    ready = {str(code): _json("Part by part.", schema[id(Readiness)]) for code in (200, 503)}
    add("/readyz", "get", "Questions can be answered.", "readyz", ready, security=[])
    for operation in operations:
        more: dict[str, Any] = {"parameters": _parameters(operation)}
        if operation.action is not None:
            more["x-antiphon-action"] = operation.action
        if operation.body is not None:
            more["requestBody"] = body(operation.body)
        answers = {str(operation.status): _json("Done.", schema[id(operation.answer)])}
        if operation.page:
            html = {"text/html": {"schema": {"type": "string"}}}
            answers = {str(operation.status): {"description": "A page.", "content": html}}
        add(operation.path, operation.method.lower(), operation.summary, operation.name, answers, **more)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Antiphon", "version": _version()},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}],
    }


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    in_path = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    parameters = [_parameter(name, "path", {"type": "string"}, True) for name in in_path]
    return parameters if operation.query is EmptyBody else parameters + _queried(operation.query)


def _queried(query: type[msgspec.Struct]) -> list[dict[str, Any]]:
    described = msgspec.json.schema(query)["$defs"][query.__name__]
    required = described.get("required", [])
    return [_parameter(name, "query", kind, name in required) for name, kind in described["properties"].items()]


def _parameter(name: str, place: str, schema: dict[str, Any], required: bool) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": schema}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _version() -> str:
    try:
        return version("antiphon")
    except PackageNotFoundError:
        return "0"
