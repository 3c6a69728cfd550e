"""What has a model looked at again, and what is done with what is seen."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import pytest

from antiphon.core.errors import AntiphonError, InvalidInputError, NotFoundError, UnavailableError
from antiphon.engine.api.messages import (
    Alternative,
    Delta,
    GenerationRequest,
    GenerationResult,
    TextEmbeddingRequest,
    TextEmbeddings,
    TokenOut,
)
from antiphon.engine.backends.remote import model_watch
from antiphon.engine.backends.remote.model_watch import ModelWatch, PinnedModel
from antiphon.engine.backends.remote.observation import PROMPTS, ModelObservation
from antiphon.engine.backends.remote.protocol import version_of


class Server:
    """A server with one model, and the record of what was seen of it."""

    def __init__(self, *, strict: bool = False, every: float = 1_000.0) -> None:
        self.weights, self.system = -1.0, "fp_1"
        self.chat_only = False
        self.refusal: AntiphonError | None = None
        self.asked: list[GenerationRequest] = []
        self.seen: list[ModelObservation | None] = []
        self.refused: str | None = None
        self.catalog_is_away, self.refusals = False, 0
        self.watch = ModelWatch(self.ask, self.embed, self.refresh, self.record, every=every, strict=strict)

    async def ask(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        self.asked.append(request)
        if self.refusal is not None:
            raise self.refusal
        if self.chat_only and not request.messages:
            raise InvalidInputError("No completions.")
        self.watch.fingerprint(request.model, self.system)
        yield Delta("r", " a", (TokenOut(-1, " a", -1.0, False, (Alternative(" a", -1, self.weights),)),))

    async def embed(self, request: TextEmbeddingRequest) -> TextEmbeddings:
        return TextEmbeddings("e", struct.pack("<2f", 3.0, 4.0), 2, (1,), "")

    async def refresh(self) -> None:
        self.watch.listed({"words": {"id": "words", "root": "org/words"}})

    async def record(self, model: str, seen: ModelObservation | None) -> PinnedModel:
        if self.catalog_is_away:
            self.refusals += 1
            raise UnavailableError("The catalog is away.")
        self.seen.append(seen)
        return PinnedModel(f"v{self.weights:g}", self.refused)

    def answers(self) -> str:
        """The fingerprint of an answer."""
        return self.watch.fingerprint("words", self.system)


@contextlib.asynccontextmanager
async def watched(server: Server) -> AsyncIterator[Server]:
    task = asyncio.create_task(server.watch.run())
    try:
        yield server
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_a_model_in_use_is_looked_at_and_its_answers_bear_its_version() -> None:
    async with watched(Server()) as server:
        assert server.answers() == "remote:words:unknown:fp_1"
        await until(lambda: server.seen)
        await until(lambda: server.answers() == "remote:words:v-1:fp_1")
        assert version_of(server.answers(), "words") == "v-1"
        seen = server.seen[0]
        assert seen is not None
        assert (seen.listed, seen.system_fingerprint) == ({"root": "org/words"}, "fp_1")
        assert seen.first_tokens == {prompt: {" a": -1.0} for prompt in PROMPTS}
        assert {(one.max_tokens, one.priority, one.temperature) for one in server.asked} == {(1, "batch", 0.0)}
        assert server.watch.described("words") == server.answers()


@pytest.mark.parametrize("change", ["system fingerprint", "list", "restart"])
async def test_what_shows_a_change_has_it_looked_at_at_once(change: str) -> None:
    async with watched(Server()) as server:
        server.answers()
        await until(lambda: len(server.seen) == 1)
        for _ in range(20):
            server.answers()
            await asyncio.sleep(0)
        assert len(server.seen) == 1, "Nothing has changed."
        server.weights = -2.0
        if change == "system fingerprint":
            server.system = "fp_2"
            server.answers()
        elif change == "list":
            server.watch.listed({"words": {"id": "words", "root": "org/others"}})
        else:
            server.watch.serves_again()
        await until(lambda: len(server.seen) >= 2)
        await until(lambda: version_of(server.answers(), "words") == "v-2")


async def test_a_fingerprint_that_is_new_with_each_answer_has_it_looked_at_a_few_times_an_interval() -> None:
    async with watched(Server()) as server:
        for number in range(200):
            server.system = f"fp_{number}"
            server.answers()
            await until(lambda: server.watch._due["words"] > 0)
        assert len(server.seen) == 1 + model_watch._LOOKS
        assert len(server.watch._systems["words"]) <= model_watch._MOST_SYSTEMS


async def test_a_server_that_cannot_be_asked_now_has_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_watch, "RETRY_SECONDS", 0.0)
    async with watched(Server()) as server:
        server.answers()
        await until(lambda: len(server.seen) == 1)
        server.refusal = UnavailableError("Away.")
        server.watch.serves_again()
        asked = len(server.asked)
        await until(lambda: len(server.asked) > asked + 2)
        assert (len(server.seen), version_of(server.answers(), "words")) == (1, "v-1")
        server.refusal = None
        await until(lambda: len(server.seen) == 2)


async def test_a_server_of_chats_alone_is_asked_by_turns_and_one_without_log_probabilities_is_known_by_less() -> None:
    server = Server()
    server.chat_only = True
    async with watched(server):
        server.answers()
        await until(lambda: server.seen)
        assert server.seen[0] is not None
        assert server.seen[0].evidence == "log-probabilities"
        server.refusal = InvalidInputError("No log-probabilities.")
        server.watch.serves_again()
        await until(lambda: len(server.seen) == 2)
        assert server.seen[1] is not None
        assert server.seen[1].evidence == "system fingerprint"


async def test_an_embedding_model_is_known_by_a_vector() -> None:
    async with watched(Server()) as server:
        server.watch.used("words", embeds=True)
        await until(lambda: server.seen)
        assert server.seen[0] == ModelObservation({"root": "org/words"}, vector=(0.6, 0.8))


async def test_a_model_that_the_server_does_not_have_is_forgotten_and_is_no_change() -> None:
    async with watched(Server()) as server:
        server.answers()
        await until(lambda: len(server.seen) == 1)
        server.refusal = NotFoundError("No such model.")
        server.watch.serves_again()
        await until(lambda: not server.watch._due)
        assert (len(server.seen), server.watch.described("words")) == (1, "remote:words:unknown")
        server.refusal = None
        server.answers()
        await until(lambda: len(server.seen) == 2)


async def test_what_could_not_be_recorded_is_recorded_later_and_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_watch, "RETRY_SECONDS", 0.0)
    server = Server()
    server.catalog_is_away = True
    async with watched(server):
        server.answers()
        await until(lambda: server.refusals > 2)
        asked = len(server.asked)
        assert asked == len(PROMPTS)
        server.catalog_is_away = False
        await until(lambda: server.seen)
        assert (len(server.asked), server.watch._version("words")) == (asked, "v-1")


async def test_a_refused_model_is_served_once_it_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_watch, "RETRY_SECONDS", 0.0)
    async with watched(Server(strict=True)) as server:
        await server.watch.require("words")  # It waits for the first look.
        server.refused = "it is another one"
        server.watch.serves_again()
        await until(lambda: len(server.seen) >= 2)
        asked = len(server.asked)
        with pytest.raises(UnavailableError, match="it is another one"):
            await server.watch.require("words")
        await until(lambda: len(server.seen) >= 4)
        assert (len(server.asked), server.seen[-1]) == (asked, None), "The record is read, and the model not asked."
        server.refused = None
        await until(lambda: server.watch._pinned["words"].refused is None)
        await server.watch.require("words")


async def test_where_a_change_is_refused_a_model_is_not_served_before_it_was_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_watch, "VERIFY_SECONDS", 0.0)
    server = Server(strict=True)
    with pytest.raises(UnavailableError, match="has not been looked at yet"):
        await server.watch.require("words")


async def test_models_of_a_long_list_are_looked_at_once_they_are_used() -> None:
    server = Server()
    server.watch.listed({f"m{number}": {} for number in range(100)})
    assert not server.watch._due
    server.watch.used("m7")
    assert list(server.watch._due) == ["m7"]
    for number in range(100):
        server.watch.used(f"m{number}")
    assert len(server.watch._due) == model_watch.MOST


async def test_nothing_is_asked_where_it_is_off() -> None:
    server = Server(every=0.0)
    async with watched(server):
        server.answers()
        await server.watch.require("words")
        assert not server.watch._due
