"""LangChain's client, unmodified: ``python langchain_openai_client.py CASE MODEL EMBEDDING_MODEL`` prints JSON."""

import json
import sys
from typing import Any, Literal

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

MESSAGES = [SystemMessage("Be brief."), HumanMessage("Is the flight late?")]


class Outlook(BaseModel):
    """How a flight looks."""

    outlook: Literal["on_time", "delayed"]
    minutes: int


@tool
def delay_of(flight: str) -> int:
    """The delay of a flight in minutes."""
    return 12


def chat(model: str, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, temperature=0, max_retries=0, **{"max_tokens": 64, **more})


def invoke(model: str, _: str) -> Any:
    made = chat(model).invoke(MESSAGES)
    return {"text": made.content, "usage": made.usage_metadata, "model": made.response_metadata["model_name"]}


def stream(model: str, _: str) -> Any:
    parts = [part.content for part in chat(model).stream(MESSAGES)]
    return {"text": "".join(parts), "parts": len(parts)}


def batch(model: str, _: str) -> Any:
    return [made.content for made in chat(model).batch([MESSAGES, MESSAGES])]


def structured(model: str, _: str) -> Any:
    asked = chat(model).with_structured_output(Outlook, method="json_schema")
    return asked.invoke(MESSAGES).model_dump()


def tools(model: str, _: str) -> Any:
    asking = chat(model, max_tokens=400).bind_tools(
        [delay_of], tool_choice="required", strict=True, parallel_tool_calls=False
    )
    made = asking.invoke(MESSAGES)
    (call,) = made.tool_calls
    told = [*MESSAGES, made, ToolMessage(str(delay_of.invoke(call["args"])), tool_call_id=call["id"])]
    answered = chat(model).bind_tools([delay_of], tool_choice="none", strict=True).invoke(told)
    return {"name": call["name"], "arguments": call["args"], "answer": answered.content}


def responses(model: str, _: str) -> Any:
    asking = chat(model, use_responses_api=True)
    made = asking.invoke(MESSAGES)
    parts = [part.text for part in asking.stream(MESSAGES)]
    return {"text": made.text, "streamed": "".join(parts), "id": made.response_metadata["id"]}


def logprobs(model: str, _: str) -> Any:
    made = chat(model, logprobs=True, top_logprobs=2).invoke(MESSAGES)
    return len(made.response_metadata["logprobs"]["content"])


def embeddings(_: str, model: str) -> Any:
    # Without this it would send the ids of another model's tokens.
    embedder = OpenAIEmbeddings(model=model, check_embedding_ctx_length=False)
    first, second, other = embedder.embed_documents(
        ["the package came damaged", "my parcel was broken when it arrived", "how do I change my password?"]
    )

    def similarity(left: list[float], right: list[float]) -> float:
        return sum(one * two for one, two in zip(left, right, strict=True))

    return {
        "size": len(first),
        "near": similarity(first, second),
        "far": similarity(first, other),
        "same": embedder.embed_query("the package came damaged") == first,
    }


if __name__ == "__main__":
    case, model, embedding_model = sys.argv[1:]
    cases = (invoke, stream, batch, structured, tools, responses, logprobs, embeddings)
    print(json.dumps({one.__name__: one for one in cases}[case](model, embedding_model)))
