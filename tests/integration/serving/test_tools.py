"""Tools of an application: called within bounds, told to the model, kept in the receipt, and not called by a replay."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from llguidance import LLMatcher, LLTokenizer
from tests.harness import tea_tools
from tests.harness.assistant import ENTITY, assistant
from tests.harness.small_desk import SCOPE, FeatureTable, SmallDesk
from tests.integration.gateway.generating_world import WithTags

from antiphon.definitions.application import ApplicationSpec, Reuse
from antiphon.definitions.guards import GroundedGuard
from antiphon.definitions.tools import ToolBounds, http_tool, spec_of
from antiphon.engine.api import tool_text
from antiphon.engine.api.messages import GenerationRequest
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.execution.local import LocalEngine
from antiphon.serving.answerer import Answerer
from antiphon.serving.answering.tool_functions import ToolFunctions
from antiphon.serving.answering.tools import NO_CALL, words
from antiphon.serving.request import Answer, Message, TextDelta
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration, echo

TOOLS = tuple(spec_of(one) for one in (tea_tools.parcel, tea_tools.slow, tea_tools.broken, tea_tools.send))
WITH_TOOLS = assistant(tools=TOOLS)
NONE = json.dumps({"tool_calls": []})

Make = Callable[..., SmallDesk]


def calls(*chosen: tuple[str, Any]) -> str:
    return json.dumps({"tool_calls": [{"name": name, "arguments": arguments} for name, arguments in chosen]})


def choosing(*rounds: str) -> Callable[[GenerationRequest], ScriptedGeneration]:
    """A model that chooses by what its prompt has of results so far, and then echoes."""

    def script(request: GenerationRequest) -> ScriptedGeneration:
        if request.json_schema is None:
            return echo(request)
        done = request.prompt.count("tool_result")
        at = next((number for number, _ in enumerate(rounds) if done <= number), len(rounds))
        return ScriptedGeneration(rounds[at] if at < len(rounds) else NONE)

    return script


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    desks: list[SmallDesk] = []
    tea_tools.called.clear()
    tea_tools.sent.clear()
    tea_tools.never.clear()
    tea_tools.crash.clear()

    def made(
        script: Any,
        application: ApplicationSpec = WITH_TOOLS,
        modules: tuple[str, ...] = ("tests.harness",),
        urls: tuple[str, ...] = (),
    ) -> SmallDesk:
        features = FeatureTable(account__open_tickets=2)
        engine = script if isinstance(script, LocalEngine) else ScriptedEngine(script)
        desk = SmallDesk(tmp_path, engine, application, features=features)
        desk.services = msgspec.structs.replace(desk.services, tool_functions=ToolFunctions(modules, urls=urls))
        desk.answerer = Answerer(desk.services)
        desks.append(desk)
        return desk

    yield made
    tea_tools.never.set()
    for desk in desks:
        desk.close()


def request(desk: SmallDesk, question: str = "Where is order 7?", **fields: Any) -> Any:
    own = {"application": "assistant", "entity": ENTITY, "question": question, "messages": (Message("user", question),)}
    return desk.request(**{**own, **fields})


async def ask(desk: SmallDesk, question: str = "Where is order 7?", **fields: Any) -> Answer:
    return await desk.answerer.answer(request(desk, question, **fields))


def told(desk: SmallDesk, answer: Answer) -> list[tuple[str, str, str]]:
    def text(blob: str) -> str:
        return desk.blobs.get(SCOPE, blob).decode()

    return [(one.name, one.status, text(one.result_blob)) for one in answer.receipt.tools]


async def test_the_model_is_told_what_a_tool_gave(make: Make) -> None:
    desk = make(choosing(calls(("parcel", {"order": "7"}))))
    answer = await ask(desk)
    assert told(desk, answer) == [("parcel", "done", '{"order":"7","day":"Monday"}')]
    prompt = desk.scripted.asked[-1].prompt
    assert '"tool_result": "{\\"order\\":\\"7\\",\\"day\\":\\"Monday\\"}"' in prompt
    assert "Find a parcel by the number of its order." in prompt
    assert answer.text == echo(desk.scripted.asked[-1]).text
    assert len(answer.receipt.decisions) == 2
    assert answer.usage.attempts == 3
    # The model has seen two turns of calls and nothing else of its own: the grammar keeps the answer to words.
    assert desk.scripted.asked[-1].grammar == words()
    assert desk.scripted.asked[0].grammar is None


def test_the_grammar_of_an_answer_lets_no_call_begin() -> None:
    tokens = LLTokenizer("byte")
    for text, allowed in (
        ("Two years [1].", True), ('{"tool_calls": []}', False), (' {"tool_calls"', False), ("<tool_call>", False),
        ('He said {"yes"}', True), ("", True),
    ):  # fmt: skip
        matcher = LLMatcher(tokens, words())
        whole = matcher.try_consume_tokens(tokens.tokenize_str(text)) == len(text)
        assert (whole and matcher.is_accepting()) == allowed, text


async def test_a_replay_calls_nothing_and_gives_the_same_bytes(make: Make) -> None:
    desk = make(choosing(calls(("parcel", {"order": "7"}))))
    answer = await ask(desk)
    assert tea_tools.called == ["7"]
    again = await desk.replay(answer.receipt)
    assert again.identical
    assert len(again.decisions) == 2
    assert tea_tools.called == ["7"]


async def test_a_tool_that_hangs_is_cut_off_and_the_model_is_told(make: Make) -> None:
    desk = make(choosing(calls(("slow", {"order": "7"}))))
    answer = await ask(desk)
    assert told(desk, answer) == [("slow", "late", "The tool did not answer within 0.05 s.")]
    assert answer.receipt.tools[0].seconds < 5


async def test_what_a_tool_raises_is_no_text_of_the_prompt(make: Make) -> None:
    desk = make(choosing(calls(("broken", {"order": "7"}))))
    assert told(desk, await ask(desk)) == [("broken", "failed", "The tool failed: RuntimeError.")]


@pytest.mark.parametrize("arguments", [{}, {"order": 7}, {"order": "7", "more": 1}, {"order": "7", "detail": "price"}])
async def test_wrong_arguments_never_reach_a_tool(make: Make, arguments: dict[str, Any]) -> None:
    desk = make(choosing(calls(("parcel", arguments))))
    ((_, status, result),) = told(desk, await ask(desk))
    assert status == "failed"
    assert result.startswith("The arguments are wrong")
    assert tea_tools.called == []


async def test_calls_are_bounded(make: Make) -> None:
    many = calls(*(("parcel", {"order": str(number)}) for number in range(5)))
    desk = make(choosing(many, many), assistant(tools=TOOLS, tool_bounds=ToolBounds(calls=3)))
    answer = await ask(desk)
    assert [status for _, status, _ in told(desk, answer)] == ["done"] * 3 + ["refused"] * 2
    assert sorted(tea_tools.called) == ["0", "1", "2"]


async def test_a_model_that_never_stops_calling_is_stopped(make: Make) -> None:
    def script(asked: GenerationRequest) -> ScriptedGeneration:
        return echo(asked) if asked.json_schema is None else ScriptedGeneration(calls(("parcel", {"order": "7"})))

    answer = await ask(make(script))
    assert len(answer.receipt.tools) == ToolBounds().calls


async def test_only_named_modules_are_imported(make: Make) -> None:
    desk = make(choosing(calls(("parcel", {"order": "7"}))), modules=("shop",))
    ((_, status, result),) = told(desk, await ask(desk))
    assert status == "failed"
    assert "are not called here" in result
    assert tea_tools.called == []


async def test_an_answer_with_tools_is_never_served_again(make: Make) -> None:
    desk = make(choosing(calls(("parcel", {"order": "7"}))), assistant(tools=TOOLS, reuse=Reuse(mode="always")))
    assert (await ask(desk)).receipt.cache.origin == "generated"
    assert (await ask(desk)).receipt.cache.origin == "generated"
    assert tea_tools.called == ["7", "7"]


async def test_a_result_grounds_a_text(make: Make) -> None:
    def script(asked: GenerationRequest) -> ScriptedGeneration:
        return (
            ScriptedGeneration("Monday.")
            if asked.json_schema is None
            else choosing(calls(("parcel", {"order": "7"})))(asked)
        )

    guards = (GroundedGuard(share=0.9, retries=0, action="refuse"),)
    assert (await ask(make(script, assistant(tools=TOOLS, guards=guards)))).text == "Monday."


async def test_the_next_turn_shows_the_calls_of_the_one_before(make: Make) -> None:
    desk = make(choosing(calls(("parcel", {"order": "7"}))))
    first = await ask(desk)
    shown = desk.scripted.asked[-1].prompt
    assert first.receipt.conversation is not None
    await ask(desk, "And then?", conversation=first.receipt.conversation.id)
    assert desk.scripted.asked[-1].prompt.startswith(shown)


async def test_a_stream_shows_the_answer_and_no_calls(make: Make) -> None:
    desk = make(choosing(calls(("parcel", {"order": "7"}))))
    parts = [part async for part in desk.answerer.stream(request(desk))]
    text = "".join(part.text for part in parts if isinstance(part, TextDelta))
    assert "tool_calls" not in text
    assert isinstance(parts[-1], Answer)
    assert parts[-1].text == text


@pytest.mark.parametrize("runtime", [SimulatedRuntime, WithTags])
async def test_an_engine_writes_calls_that_meet_their_schemas(make: Make, runtime: type[SimulatedRuntime]) -> None:
    engine = await LocalEngine({"scripted": runtime("scripted")}).start()
    try:
        desk = make(engine)
        answer = await ask(desk)
        assert answer.receipt.decisions
        for one in answer.receipt.decisions:
            text = desk.blobs.get(SCOPE, one.text_blob).decode()
            content, chosen = tool_text.read(text)
            assert chosen or content in (None, "", NO_CALL), text
        assert all(one.status in ("done", "late", "failed", "refused") for one in answer.receipt.tools)
        assert (await desk.replay(answer.receipt)).identical
    finally:
        await engine.close()


SEND = calls(("send", {"order": "7"}))


async def test_a_tool_acts_once_however_often_its_turn_is_asked(make: Make) -> None:
    desk = make(choosing())
    first = await ask(desk, "Hello")
    assert first.receipt.conversation is not None
    desk.scripted.follow(choosing(SEND))
    again = {"conversation": first.receipt.conversation.id}
    stream = desk.answerer.stream(request(desk, "Send it.", **again))
    await anext(stream)  # It acted; then the caller goes away, and the answer is lost.
    await stream.aclose()
    assert len(tea_tools.sent) == 1
    answer = await ask(desk, "Send it.", **again)
    assert told(desk, answer) == [("send", "done", "order 7 is sent")]
    assert len(tea_tools.sent) == 1
    # Another turn is another order.
    desk.scripted.follow(choosing(SEND, SEND))
    await ask(desk, "Send it again.", **again)
    assert len({key for _, key in tea_tools.sent}) == 2


async def test_a_call_that_may_have_acted_is_repeated_with_the_same_key(make: Make) -> None:
    desk = make(choosing())
    first = await ask(desk, "Hello")
    desk.scripted.follow(choosing(SEND))
    tea_tools.crash.set()
    again = {"conversation": first.receipt.conversation.id}  # type: ignore[union-attr]
    stream = desk.answerer.stream(request(desk, "Send it.", **again))
    await anext(stream)
    await stream.aclose()
    tea_tools.crash.clear()
    answer = await ask(desk, "Send it.", **again)
    assert told(desk, answer)[0][1] == "done"
    assert len(tea_tools.sent) == 1, "the tool knows the call by its key"


async def test_the_same_call_twice_in_one_answer_acts_once(make: Make) -> None:
    desk = make(choosing(calls(("send", {"order": "7"}), ("send", {"order": "7"}), ("send", {"order": "8"}))))
    answer = await ask(desk)
    assert [status for _, status, _ in told(desk, answer)] == ["done"] * 3
    assert [order for order, _ in tea_tools.sent] == ["7", "8"]


async def test_a_tool_that_acts_is_not_called_for_what_no_user_gets(make: Make) -> None:
    desk = make(choosing(SEND))
    answer = await ask(desk, role="evaluation", release=desk.release.id)
    assert told(desk, answer)[0][1] == "refused"
    assert tea_tools.sent == []
    assert (await desk.replay((await ask(desk)).receipt)).identical
    assert len(tea_tools.sent) == 1


SCHEMA = {
    "type": "object",
    "properties": {"order": {"type": "string"}},
    "required": ["order"],
    "additionalProperties": False,
}


class Endpoint(BaseHTTPRequestHandler):
    """Answers with what it was sent; the path says how."""

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/away":
            self.send_response(302)
            self.send_header("location", "http://127.0.0.1:1/")
            self.end_headers()
            return
        key = self.headers.get("idempotency-key", "")
        body = json.dumps({"sent": json.loads(content), "keyed": bool(key)}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


async def test_an_endpoint_is_a_tool_where_the_settings_name_it(make: Make, endpoint: str) -> None:
    tools = tuple(
        http_tool(name, url=f"{endpoint}/{name}", description="Find it.", parameters=SCHEMA, acts=name == "order")
        for name in ("find", "order", "away")
    )
    chosen = calls(*((name, {"order": "7"}) for name in ("find", "order", "away")), ("find", {"order": 7}))
    desk = make(choosing(chosen), assistant(tools=tools), urls=(f"{endpoint}/",))
    found, ordered, away, wrong = told(desk, await ask(desk))
    assert found == ("find", "done", '{"sent": {"order": "7"}, "keyed": false}')
    assert ordered == ("order", "done", '{"sent": {"order": "7"}, "keyed": true}')
    assert away == ("away", "failed", "The tool failed: the endpoint answers 302.")
    assert wrong[1] == "failed"
    other = make(choosing(chosen), assistant(tools=tools), urls=(f"{endpoint}/other",))
    assert {status for _, status, _ in told(other, await ask(other))} == {"failed"}


async def test_a_tool_never_reaches_a_machine_s_metadata(make: Make) -> None:
    url = "http://169.254.169.254/latest"
    tools = (http_tool("find", url=url, description="Find it.", parameters=SCHEMA),)
    desk = make(choosing(calls(("find", {"order": "7"}))), assistant(tools=tools), urls=(url,))
    ((_, status, result),) = told(desk, await ask(desk))
    assert status == "failed"
    assert "169.254" in result or "address" in result
