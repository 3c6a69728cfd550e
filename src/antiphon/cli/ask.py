"""``antiphon ask``: a question from the terminal, answered as the gateway would."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Json, OtherRelease, Project
from antiphon.cli.output import show
from antiphon.cli.project import at_terminal, services
from antiphon.core.errors import FeatureUnavailableError, UnavailableError

if TYPE_CHECKING:
    from antiphon.catalog.serving.receipt import Receipt
    from antiphon.serving.request import Answer


def ask(
    application: Annotated[str, typer.Argument(help="An application, or a plain model.")],
    question: Annotated[str, typer.Argument(help="The question; an application may need none.")] = "",
    entity: entities.Entity = [],  # noqa: B006 -- typer copies it
    given: entities.Input = [],  # noqa: B006 -- typer copies it
    as_of: entities.AsOf = "",
    release: OtherRelease = "",
    conversation: Annotated[str, typer.Option(help="The conversation that the question goes on with.")] = "",
    max_tokens: Annotated[int, typer.Option(min=0, help="Bound for a plain model; 0 is its default.")] = 0,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Ask a question. The text goes to stdout, where it came from to stderr."""
    from antiphon.catalog.serving.receipt import STAND_IN_ROLES
    from antiphon.gateway.openai.shapes import provenance
    from antiphon.serving.request import AnswerRequest, DecodingOverrides, Message

    inputs, keys, moment = entities.inputs(given), entities.keys(entity), entities.moment(as_of)

    async def answered() -> Answer:
        async with services(project) as (found, store):
            request = AnswerRequest(
                scope=store.scope,
                principal=at_terminal(store),
                application=application,
                entity=keys,
                inputs=inputs,
                question=question or None,
                messages=(Message("user", question),) if question else (),
                as_of=moment,
                release=release or None,
                conversation=conversation or None,
                overrides=DecodingOverrides(max_tokens=max_tokens or None),
            )
            try:
                return await found.generation.answerer.answer(request)
            except (UnavailableError, FeatureUnavailableError) as error:
                published = store.publications.current(store.scope) is not None
                if not needs_start(error, published) or any(process.alive for process in found.health.processes()):
                    raise
                raise UnavailableError(
                    f"{error.what} Nothing runs in this project.",
                    where=error.where,
                    next_step="Start `antiphon up` in another terminal, and ask again once it is up.",
                ) from error

    answer = asyncio.run(answered())
    receipt = answer.receipt
    guards = "".join(f", guard {guard.action}" for guard in receipt.guards if guard.action != "pass")
    stands_in = f" ({receipt.role})" if receipt.role in STAND_IN_ROLES else ""
    show(
        {"text": answer.text, "finish_reason": answer.finish_reason, "antiphon": provenance(answer)},
        as_json,
        lambda: answer.text,
        f"{answer.prediction}  {receipt.cache.origin}{stands_in}{guards}, "
        f"{receipt.usage.completion_tokens} tokens, {receipt.timing.total:.2f} s{_conversation(receipt)}",
    )


def _conversation(receipt: Receipt) -> str:
    own = receipt.conversation
    return f", turn {own.turn} of {own.id}" if own is not None and own.id is not None else ""


def needs_start(error: UnavailableError | FeatureUnavailableError, published: bool) -> bool:
    """Tell whether starting the project would mend it: the engine was not reached, or nothing was published yet."""
    return error.where == "engine" if isinstance(error, UnavailableError) else not published
