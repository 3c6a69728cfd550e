"""Ten turns with a shop's assistant: earlier tokens that are not computed again, and replay byte for byte.

Conversations are led in turns of one each by the base model, with a feature of the customer that changes from turn to
turn: by the conversation's id, by sending all turns, and as a peer by its id in an engine that is not told that a
prompt will be continued. Then the same in a context that is too short, where earlier turns are summarized.

    python -m benchmarks.conversations [--size ci|demo|full] [--keep]

A table, then one JSON line, kept in ``benchmarks/results/conversations.jsonl`` with ``--keep``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from tests.harness.conversation_runs import ConversationFigures, application, converse

from antiphon.definitions.conversation import Conversation
from antiphon.engine import weights
from antiphon.engine.api.messages import (
    Delta,
    EngineDescription,
    GenerationRequest,
    GenerationResult,
    TextEmbeddingRequest,
    TextEmbeddings,
)
from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout
from antiphon.engine.weights import Weights

RESULTS = Path(__file__).parent / "results" / "conversations.jsonl"
GOAL = 0.9
SIZES = {"ci": 1, "demo": 3, "full": 10}
"""Conversations of each kind, all at once; each has ten turns."""
MODEL = "smollm2-135m"


class Untold:
    """An engine that is not told which prompts are continued."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine

    async def describe(self) -> EngineDescription:
        return await self._engine.describe()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        async with aclosing(self._engine.generate(msgspec.structs.replace(request, continues=False))) as events:
            async for event in events:
                yield event

    async def embed(self, request: TextEmbeddingRequest) -> TextEmbeddings:
        return await self._engine.embed(request)


async def measure(conversations: int) -> dict[str, ConversationFigures]:
    """Lead them; each kind in an engine of its own, so that none finds what another left."""
    found = weights.resolve(str(weights.pull(MODEL)))
    rule = Conversation(keep=1, summary_tokens=64)
    return {
        "by id": await _led(found, 2_048, conversations),
        "by turns": await _led(found, 2_048, conversations, by_messages=True),
        "untold": await _led(found, 2_048, conversations, told=False),
        "summarized": await _led(found, 640, conversations, conversation=rule),
    }


async def _led(
    found: Weights,
    context: int,
    conversations: int,
    *,
    told: bool = True,
    by_messages: bool = False,
    **changes: Any,
) -> ConversationFigures:
    runtime = LlamaCpp(MODEL, found, Layout(slots=4, context_tokens=context), threads=2)
    engine = await LocalEngine({MODEL: runtime}).start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            asked = engine if told else Untold(engine)
            spec = application(MODEL, **changes)
            return await converse(Path(folder), asked, spec, conversations, by_messages=by_messages)
    finally:
        await engine.close()


def main() -> int:
    """Measure, print, and fail where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    figures = asyncio.run(measure(SIZES[options.size]))
    for name, row in figures.items():
        print(
            f"{name:<12} {row.of_all:.1%} of earlier tokens not computed again ({row.of_prompts:.1%} of earlier "
            f"prompts'), {row.kept} of {row.turns} prompts begin with the one before, {row.identical} of {row.answers} "
            f"replayed byte for byte, {row.summaries} summaries, first byte {statistics.median(row.first_bytes):.3f} s "
            f"({min(row.first_bytes):.3f} to {max(row.first_bytes):.3f})"
        )
    led = (figures["by id"], figures["by turns"])
    met = {
        "reuse": all(row.of_all >= GOAL for row in led),
        "beginnings": all(row.kept == row.turns for row in led),
        "replay": all(row.identical == row.answers for row in figures.values()),
        "summarized": figures["summarized"].summaries > 0,
    }
    line = json.dumps(
        {
            "benchmark": "conversations",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "size": options.size,
            "load": round(os.getloadavg()[0], 1),
            **{name.replace(" ", "_"): _line(row) for name, row in figures.items()},
            "met": met,
        }
    )
    if options.keep:
        with RESULTS.open("a") as kept:
            kept.write(line + "\n")
    print(line)
    return 0 if all(met.values()) else 1


def _line(row: ConversationFigures) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(row)
    made["first_byte_seconds"] = round(statistics.median(made.pop("first_bytes")), 3)
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in made.items()}


if __name__ == "__main__":
    sys.exit(main())
