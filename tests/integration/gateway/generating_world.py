"""A gateway over an engine, and the official client: what tests of OpenAI's API ask."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import openai
from tests.harness import fakes
from tests.harness.small_desk import DESK, SCOPE, SmallDesk
from tests.integration.gateway.conftest import serve

from antiphon.engine.api.port import Engine
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.execution.local import LocalEngine
from antiphon.governance.identity.keys import Keys
from antiphon.serving.admission.limits import AdmissionController

MODEL = fakes.MODEL
CHAT = [{"role": "user", "content": "Tell me about flights."}]


@dataclass
class World:
    """A gateway over an engine: the official client, and what it leaves behind."""

    client: openai.AsyncOpenAI
    desk: SmallDesk
    engine: Engine

    async def chat(self, **asked: Any) -> Any:
        return await self.client.chat.completions.create(
            **{"model": MODEL, "messages": CHAT, "max_tokens": 16, **asked}
        )

    async def complete(self, **asked: Any) -> Any:
        return await self.client.completions.create(
            **{"model": MODEL, "prompt": "Flights are", "max_tokens": 12, "temperature": 0, **asked}
        )

    async def replays(self, prediction: str) -> bool:
        """Whether the prediction's text is made again, byte for byte."""
        return (await self.desk.replay(self.desk.receipts.get(SCOPE, prediction))).identical


async def over(stack: AsyncExitStack, folder: Path, engine: Engine) -> World:
    folder.mkdir()
    application = msgspec.structs.replace(DESK, model=MODEL)
    desk = SmallDesk(folder, engine, application, admission=AdmissionController(online=64, batch=64))
    stack.callback(desk.close)
    services = fakes.gateway_services(desk.database, desk.answerer, environment=SCOPE.environment)
    running = await stack.enter_async_context(serve(services))
    key = Keys(desk.database, fakes.SECRET).create("default", "someone", "service")[0]
    client = openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0)
    await stack.enter_async_context(client)
    return World(client, desk, engine)


async def simulated(stack: AsyncExitStack, folder: Path) -> World:
    engine = await LocalEngine({MODEL: SimulatedRuntime(MODEL)}).start()
    stack.push_async_callback(engine.close)
    return await over(stack, folder, engine)


class WithTags(SimulatedRuntime):
    """A simulated model whose chat template writes tools and has calls marked by tags."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        template = (Path(__file__).parent / "qwen_template.jinja").read_text()
        self.description = msgspec.structs.replace(self.description, chat_template=template)


async def with_tags(stack: AsyncExitStack, folder: Path) -> World:
    engine = await LocalEngine({MODEL: WithTags(MODEL)}).start()
    stack.push_async_callback(engine.close)
    return await over(stack, folder, engine)
