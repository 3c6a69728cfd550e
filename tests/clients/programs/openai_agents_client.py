"""OpenAI's Agents SDK, unmodified: ``python openai_agents_client.py CASE MODEL`` prints JSON."""

import asyncio
import json
import sys
from typing import Any, Literal

from agents import Agent, ModelSettings, Runner, SQLiteSession, function_tool
from pydantic import BaseModel

QUESTION = "Is the flight late?"


class Outlook(BaseModel):
    """How a flight looks."""

    outlook: Literal["on_time", "delayed"]
    minutes: int


@function_tool
def delay_of(flight: str) -> int:
    """The delay of a flight in minutes."""
    return 12


def agent(model: str, output: Any = None, tools: Any = (), **settings: Any) -> Agent[None]:
    return Agent(
        name="Desk",
        instructions="Be brief.",
        model=model,
        output_type=output,
        tools=list(tools),
        model_settings=ModelSettings(**{"temperature": 0, "max_tokens": 400, **settings}),
    )


async def run(model: str) -> Any:
    made = await Runner.run(agent(model, metadata={"team": "desk"}), QUESTION)
    usage = made.context_wrapper.usage
    return {"text": made.final_output, "response": made.last_response_id, "tokens": usage.total_tokens}


async def stream(model: str) -> Any:
    streaming = Runner.run_streamed(agent(model), QUESTION)
    kinds, text = [], ""
    async for event in streaming.stream_events():
        if event.type == "raw_response_event":
            kinds.append(event.data.type)
            text += event.data.delta if event.data.type == "response.output_text.delta" else ""
    return {"text": text, "final": streaming.final_output, "kinds": kinds}


async def structured(model: str) -> Any:
    made = await Runner.run(agent(model, Outlook), QUESTION)
    return made.final_output.model_dump()


async def tools(model: str) -> Any:
    caller = agent(model, tools=[delay_of], tool_choice="required", parallel_tool_calls=False)
    caller.tool_use_behavior = "stop_on_first_tool"
    called = await Runner.run(caller, QUESTION)
    told = [*called.to_input_list(), {"role": "user", "content": "So?"}]
    answered = await Runner.run(agent(model, tools=[delay_of], tool_choice="none"), told)
    return {
        "items": [item.type for item in called.new_items],
        "output": called.final_output,
        "answer": answered.final_output,
    }


async def conversation(model: str) -> Any:
    first = await Runner.run(agent(model), QUESTION)
    by_id = await Runner.run(agent(model), "And trains?", previous_response_id=first.last_response_id)
    session = SQLiteSession("one")
    again = await Runner.run(agent(model), QUESTION, session=session)
    by_turns = await Runner.run(agent(model), "And trains?", session=session)
    return {"same": [first.final_output == again.final_output, by_id.final_output == by_turns.final_output]}


if __name__ == "__main__":
    case, model = sys.argv[1:]
    cases = {one.__name__: one for one in (run, stream, structured, tools, conversation)}
    print(json.dumps(asyncio.run(cases[case](model))))
