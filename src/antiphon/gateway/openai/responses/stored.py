"""Responses as they are kept: a receipt, its texts, and the turn that was asked.

Invariant: a response is read, and gone on from, by who may read its prediction's record; it is deleted by who made it,
or by an administrator. Its turn has bytes of its own, so that deleting it takes nothing from another receipt. The
receipt stays: it is evidence, and its texts may be those of others too.
"""

from __future__ import annotations

from datetime import timedelta

import msgspec

from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipt import Receipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.gateway.openai.responses import items
from antiphon.gateway.openai.responses.answers import output_items, whole_response
from antiphon.gateway.openai.responses.parameters import ResponseParameters, StoredTurn, continued
from antiphon.gateway.openai.responses.shapes import ModelResponse, OutputMessage, ResponseDeletion
from antiphon.gateway.operation import OperationCall, operation
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal
from antiphon.serving.records import Records
from antiphon.serving.request import Answer, AnswerRequest, Message

MOST_TURNS = 200
"""Responses that one may go on from, one behind the other."""

_turns = msgspec.json.Decoder(StoredTurn)


class StoredResponses:
    """Reads, continues and deletes responses for a principal."""

    def __init__(self, receipts: Receipts, texts: Blobs, records: Records) -> None:
        self._receipts = receipts
        self._texts = texts
        self._records = records

    @classmethod
    def of(cls, services: GatewayServices) -> StoredResponses:
        """Those of a gateway."""
        predictions = services.predictions
        return cls(predictions.receipts, predictions.texts, services.access.records)

    def get(self, scope: Scope, who: Principal, response: str) -> ModelResponse:
        """A response as it was answered, without log-probabilities.

        Raises:
            NotFoundError: there is none of this id here, it was not stored, or it was deleted.
            ForbiddenError: policy keeps its record from this principal.
        """
        receipt, parameters, answer = self._read(scope, who, response)
        began = receipt.created_at - timedelta(seconds=receipt.timing.total)
        return whole_response(int(began.timestamp()), parameters, (answer,))

    def continued(self, parameters: ResponseParameters, asking: AnswerRequest) -> AnswerRequest:
        """The request with the turns of the responses that it goes on from. Those of an application's conversation are
        found by ``answer()``, with the texts that they were shown with.

        Raises:
            InvalidInputError: one of them is not there, or there are too many.
            ForbiddenError: policy keeps the record of one of them from who asks.
        """
        earlier: list[Message] = []
        following, seen = parameters.previous_response_id, 0
        if following is not None and self._in_conversation(asking, following):
            return msgspec.structs.replace(continued(parameters, asking, ()), previous=following)
        while following is not None:
            if seen == MOST_TURNS:
                raise InvalidInputError(
                    f"More than {MOST_TURNS} responses lie before it.",
                    where="previous_response_id",
                    next_step="Send the turns that matter as `input`.",
                )
            try:
                _, before, answer = self._read(asking.scope, asking.principal, following)
            except NotFoundError as error:
                raise InvalidInputError(
                    f"The conversation cannot go on: {error.what}",
                    where="previous_response_id",
                    next_step="Send its turns as `input`. What was asked with `store: false`, or deleted, is not kept.",
                ) from None
            earlier[:0] = [*_own_turns(before), *_turns_of_answer(before, answer)]
            following, seen = before.previous_response_id, seen + 1
        return continued(parameters, asking, earlier)

    def _in_conversation(self, asking: AnswerRequest, response: str) -> bool:
        try:
            return self._receipts.get(asking.scope, response).conversation is not None
        except NotFoundError:
            return False  # which reading it says

    def delete(self, scope: Scope, who: Principal, response: str) -> Receipt:
        """Erases a response's turn, so that it can neither be read nor gone on from; its receipt stays.

        Raises:
            NotFoundError, ForbiddenError: as for :meth:`get`.
        """
        receipt, _, _ = self._read(scope, who, response)
        assert receipt.turn_blob is not None
        self._texts.erase(scope, receipt.turn_blob)
        return receipt

    def author(self, scope: Scope, who: Principal, response: str) -> str:
        """The principal that asked for a response; raises as :meth:`get` does where its record may not be read."""
        return self._records.require_prediction(scope, who, response).principal

    def _read(self, scope: Scope, who: Principal, response: str) -> tuple[Receipt, ResponseParameters, Answer]:
        receipt = self._records.require_prediction(scope, who, response)
        try:
            turn = _turns.decode(self._texts.get(scope, receipt.turn_blob or ""))
            text = self._texts.get(scope, receipt.text_blob).decode()
        except NotFoundError:
            raise NotFoundError(
                f"There is no stored response {response!r}.",
                where="response",
                next_step="It was asked with `store: false` or elsewhere than at /v1/responses, or it was deleted; "
                f"`antiphon explain {response}` shows its receipt.",
            ) from None
        answer = Answer(
            prediction=receipt.prediction,
            request=receipt.request,
            text=text,
            finish_reason=receipt.finish_reason,
            usage=receipt.usage,
            receipt=receipt,
            publication=receipt.publication,
        )
        return receipt, turn.parameters, answer


def _own_turns(parameters: ResponseParameters) -> list[Message]:
    given = parameters.input
    return [Message("user", given)] if isinstance(given, str) else [placed.turn for placed in items.turns(given)]


def _turns_of_answer(parameters: ResponseParameters, answer: Answer) -> list[Message]:
    """The turn of the assistant, with its calls."""
    found = [
        items.MessageItem("assistant", "".join(part.text for part in item.content))
        if isinstance(item, OutputMessage)
        else items.FunctionCallItem(item.call_id, item.name, item.arguments, item.namespace or None)
        for item in output_items(parameters, answer)
    ]
    return [placed.turn for placed in items.turns(found)]


@operation("GET", "/v1/responses/{response}", "A response that was stored.", "read")
def _v1_response_retrieve(call: OperationCall) -> ModelResponse:
    return StoredResponses.of(call.services).get(call.scope, call.principal, call.path["response"])


@operation("DELETE", "/v1/responses/{response}", "Forget a response; its receipt stays.", "answer", changes=True)
def _v1_response_delete(call: OperationCall) -> ResponseDeletion:
    responses, response, who = StoredResponses.of(call.services), call.path["response"], call.principal
    if responses.author(call.scope, who, response) != who.id:
        call.services.access.authorize(who, "administer", f"prediction/{response}")
    responses.delete(call.scope, who, response)
    return ResponseDeletion(id=response)
