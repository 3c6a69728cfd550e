"""Finds the earlier turns of a request's conversation, and makes its own turn of an answer.

Invariants: a conversation is read and gone on from by who had it: the same tenant and environment, application, entity
and principal, and the same user where the principal names one. For anybody else it is not there. A turn keeps the text
that it was first shown with.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from antiphon.catalog.releases.releases import Release
from antiphon.catalog.releases.rollouts import Assignment
from antiphon.catalog.rows import missing
from antiphon.catalog.serving.conversations import ConversationRecord, Conversations, ConversationTurn
from antiphon.core.errors import ConflictError, ForbiddenError, NotFoundError, UnsupportedParameterError
from antiphon.core.ids import keyed_hash, new_id
from antiphon.serving.answering import prompts
from antiphon.serving.answering.context import AnswerContext, Arrival
from antiphon.serving.answering.overrides import check_turns
from antiphon.serving.features.reading import is_hidden
from antiphon.serving.history import History, continuing, given_pairs, transcript
from antiphon.serving.ports import ReleaseAssignment

MOST_TURNS = 500
"""Turns of one conversation."""

_ARMS = ("canary", "control")


class Recollection:
    """Recalls conversations from the catalog.

    Args:
        key: of the hashes of users and of what was said.
    """

    def __init__(self, conversations: Conversations, releases: ReleaseAssignment, key: bytes) -> None:
        self._conversations = conversations
        self._releases = releases
        self._key = key

    def recall(self, arrival: Arrival, assigned: Assignment) -> History:
        """The earlier turns of a request; none of one that begins a conversation.

        Raises:
            NotFoundError: there is no such conversation, or it is another's.
            UnsupportedParameterError: the application answers single questions.
            InvalidInputError: turns that do not alternate.
            ConflictError: it has too many turns.
        """
        request, application = arrival.request, assigned.release.bundle.application
        named = "previous_response_id" if request.previous else "conversation" if request.conversation else None
        if not application.conversation:
            if named is not None or request.history is not None:
                raise _no_conversations(application.name, assigned.release.number == 0, named or "conversation")
            return History()
        if request.history is not None:  # a shadow's, as the mirrored request found it
            return msgspec.structs.replace(request.history, conversation="", record=None)
        check_turns(request, application)
        kept = request.kept and request.role == "live" and (request.path == "online" or bool(named or request.messages))
        found = self._found(arrival, given_pairs(request.messages, request.names))
        if found.number > MOST_TURNS:
            raise ConflictError(
                f"The conversation has {MOST_TURNS} turns, which is all it may have.",
                where="conversation",
                next_step="Begin another one.",
            )
        id = found.record.id if found.record is not None else new_id("conv")
        return msgspec.structs.replace(found, conversation=id if kept else "")

    def assigned(self, arrival: Arrival, assigned: Assignment, history: History) -> Assignment:
        """The assignment of a turn by the application's rule: a conversation stays with its release, and gives evidence
        to a rollout only where it began in one of its arms."""
        request, record = arrival.request, history.record
        rule = assigned.release.bundle.application.conversation
        if record is None or not rule or rule.release == "live" or request.release is not None:
            return assigned
        same = self._same(arrival, assigned.release, record.release)
        if same.id == assigned.release.id and (assigned.role not in _ARMS or record.rollout == assigned.rollout):
            return assigned
        mirror = assigned.mirror if same.id == assigned.release.id else None
        return Assignment(same, mirror=mirror, rollout=assigned.rollout if mirror is not None else None)

    def turn(self, context: AnswerContext, prediction: str, answer: str) -> ConversationTurn:
        """The turn of an answer, as later prompts show it."""
        history, question = context.history, context.request.question or ""
        before = history.turns[-1].transcript if history.turns else self._beginning(context.arrival)
        return ConversationTurn(
            number=history.number,
            prediction=prediction,
            question=question,
            shown=prompts.question_text(context.application, context.template_names),
            answer=answer,
            prints={name: text for name, text in context.reading.prints.items() if text is not None},
            first=history.first,
            summary=history.summary,
            transcript=transcript(self._key, before, question, answer),
            exchanged=context.exchanged,
        )

    def record(self, context: AnswerContext, moment: datetime) -> ConversationRecord:
        """The conversation with the turn of this request in it."""
        history, arrival, assigned = context.history, context.arrival, context.assigned
        known = history.record
        return ConversationRecord(
            id=history.conversation,
            scope=arrival.request.scope,
            application=arrival.request.application,
            subject=arrival.subject,
            speaker=self._speaker(arrival),
            release=assigned.release.id,
            rollout=(assigned.rollout if assigned.role in _ARMS else None) if known is None else known.rollout,
            turns=history.number,
            created_at=moment if known is None else known.created_at,
            updated_at=moment,
        )

    def _found(self, arrival: Arrival, given: list[tuple[str, str]]) -> History:
        request = arrival.request
        if request.conversation is not None or request.previous is not None:
            if given:
                where = "previous_response_id" if request.previous else "conversation"
                raise UnsupportedParameterError(
                    f"`{where}` names the earlier turns, and the request has turns too.",
                    where=where,
                    next_step="Send the user's new turn alone, or all turns without it.",
                )
            return self._named(arrival)
        transcripts, before = [], self._beginning(arrival)
        for question, answer in given:
            transcripts.append(before := transcript(self._key, before, question, answer))
        place = self._conversations.of_transcripts(request.scope, transcripts)
        found = History() if place is None else self._through(arrival, place.conversation, place.number)
        turns = list(found.turns)
        if not turns and not given:
            return found
        for number in range(len(turns), len(given)):
            question, answer = given[number]
            last = turns[-1] if turns else ConversationTurn(0, "", "", "", "")
            said = ConversationTurn(number + 1, "", question, question, answer, {}, last.first, last.summary)
            turns.append(msgspec.structs.replace(said, transcript=transcripts[number]))
        return continuing(turns, record=found.record)

    def _named(self, arrival: Arrival) -> History:
        request = arrival.request
        if request.conversation is not None:
            return self._through(arrival, request.conversation, None)
        previous = request.previous or ""
        place = self._conversations.of_prediction(request.scope, previous)
        if place is None:
            raise missing(
                "stored response", previous, request.scope, "Send its turns: it was not kept, or was deleted."
            )
        return self._through(arrival, place.conversation, place.number)

    def _through(self, arrival: Arrival, conversation: str, number: int | None) -> History:
        """The turns up to one; what is gone on with from before its end becomes a conversation of its own."""
        scope = arrival.request.scope
        record = self._conversations.get(scope, conversation)
        had = (record.application, record.subject, record.speaker)
        if had != (arrival.request.application, arrival.subject, self._speaker(arrival)):
            raise missing("conversation", conversation, scope, "Leave it out to begin one.")
        turns = self._conversations.turns(scope, conversation, number)
        return continuing(turns, record=record if len(turns) == record.turns else None)

    def _same(self, arrival: Arrival, present: Release, release: str) -> Release:
        """The release that a conversation began with while it may answer; otherwise the present one."""
        if release == present.id:
            return present
        try:
            found = self._releases.staged(arrival.request.scope, release)
        except NotFoundError:
            return present
        served = found.stage in ("live", "canary") or found.bundle.model == present.bundle.model
        return found if served and found.stage != "rolled_back" and found.bundle.application.conversation else present

    def _speaker(self, arrival: Arrival) -> str:
        request = arrival.request
        who = f"{request.scope}|speaker|{request.principal.id}|{request.originating_user or ''}"
        return keyed_hash(self._key, who).hex()

    def _beginning(self, arrival: Arrival) -> str:
        who = f"{self._speaker(arrival)}|{arrival.subject}|{arrival.request.application}"
        return keyed_hash(self._key, f"transcript|{who}").hex()


def check_masked(history: History, masked: Sequence[str]) -> None:
    """Refuse a conversation whose earlier turns show a feature that policy hides from this request."""
    hidden = sorted({name for turn in history.turns for name in turn.prints if is_hidden(name, masked)})
    if hidden:
        raise ForbiddenError(
            f"Policy hides {', '.join(hidden)}, which earlier turns of the conversation show.",
            where="conversation",
            next_step="Begin another conversation.",
        )


def _no_conversations(name: str, plain: bool, where: str) -> UnsupportedParameterError:
    if plain:
        return UnsupportedParameterError(
            f"{name} is a plain model, which keeps no conversation.",
            where=where,
            next_step="Send the earlier turns, or ask /v1/responses with `previous_response_id`.",
        )
    return UnsupportedParameterError(
        f"The application {name!r} declares no conversation: it answers single questions.",
        where=where,
        next_step="Declare `conversation=Conversation()` in the application, or leave it out.",
    )
