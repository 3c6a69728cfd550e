"""Batch and online give the same text, and a replay gives it again: byte by byte, with the real model, under load.

The project that `antiphon init` writes is asked the same requests on both paths at once, with reuse off; then the
receipts, half of each path, are replayed while other questions are being answered.

    python -m benchmarks.engine.parity [--size ci|demo|full]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from tests.chaos.harness.running import scratch, supervised, until
from tests.harness.ports import free_port

SIZES = {"ci": 12, "demo": 48, "full": 200}
SHOPS = ("bakery", "books", "florist", "grocer", "pharmacy", "tea")
EVERY = timedelta(hours=4)
"""Between two moments a shop is asked about; a view answers exactly for a week before its snapshot."""
AT_ONCE = 4
RESULTS = Path(__file__).parents[1] / "results"

T = TypeVar("T")
Row = dict[str, str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    options = parser.parse_args()
    with scratch() as folder:
        summary = asyncio.run(measure(Path(folder), SIZES[options.size]))
    show(summary)
    line = json.dumps(summary)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"parity-{options.size}.json").write_text(line + "\n", encoding="utf-8")
    print(line)
    return 0 if summary["holds"] else 1


async def measure(folder: Path, number: int) -> dict[str, Any]:
    """Ask, compare and replay in a new project below ``folder``."""
    port = free_port()
    root = write_project(folder, port)
    url = f"http://127.0.0.1:{port}"
    async with supervised(root, url):
        key = (root / ".antiphon" / "keys" / "admin.key").read_text(encoding="utf-8").strip()
        headers = {"authorization": f"Bearer {key}"}
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=300.0) as client:
            await publish(client)
            rows = requests(number)
            began = time.monotonic()
            tell(f"asking {number} requests on both paths")
            online, batch = await asyncio.gather(ask_online(client, rows), ask_batch(client, rows))
            asked = time.monotonic() - began
            tell("replaying under load")
            async with busy(client, rows):
                replays = await replay(client, online, batch)
            return summarize(online, batch, replays, asked, time.monotonic() - began - asked)


def write_project(folder: Path, port: int) -> Path:
    """The blueprint with reuse off, and figures printed finely so that requests differ."""
    from antiphon.cli.init import write

    root = folder / "parity"
    write(root, "parity", port)
    definitions = root / "definitions.py"
    text = definitions.read_text(encoding="utf-8")
    changed = text.replace('Reuse("fingerprint")', 'Reuse("never", identical_prompts=False)').replace(
        "step=5", "step=1"
    )
    assert changed.count("identical_prompts=False") == 1, "the blueprint's reuse is not where it was"
    definitions.write_text(changed, encoding="utf-8")
    return root


async def publish(client: httpx2.AsyncClient) -> None:
    """The views as of now."""

    async def published() -> dict[str, Any]:
        response = await client.get("/admin/publications")
        response.raise_for_status()
        return response.json()

    (await client.post("/admin/features/refresh", json={"key": "parity"})).raise_for_status()
    await until(
        published, lambda found: bool(found["publications"]) and len(found["publications"][0]["snapshots"]) == 2, 120
    )


def requests(number: int) -> list[Row]:
    """Shops in turn, each at earlier and earlier moments."""
    now = datetime.now(UTC).replace(microsecond=0)
    return [
        {"shop": SHOPS[at % len(SHOPS)], "as_of": (now - EVERY * (at // len(SHOPS))).isoformat()}
        for at in range(number)
    ]


async def ask_online(client: httpx2.AsyncClient, rows: list[Row]) -> list[dict[str, Any]]:
    """Each request on the online path: its text, prediction and what its guards did."""

    async def ask(row: Row) -> dict[str, Any]:
        response = await client.post("/v1/chat/completions", json=body(row))
        assert response.status_code == 200, response.text
        whole = response.json()
        return {"text": whole["choices"][0]["message"]["content"], **whole["antiphon"]}

    return await at_once(AT_ONCE, [lambda row=row: ask(row) for row in rows])


def body(row: Row) -> dict[str, Any]:
    return {
        "model": "desk",
        "messages": [{"role": "user", "content": "How long?"}],
        "entity": {"shop": row["shop"]},
        "as_of": row["as_of"],
    }


async def ask_batch(client: httpx2.AsyncClient, rows: list[Row]) -> list[dict[str, Any]]:
    """The same requests as one batch job: its rows."""
    order = {"application": "desk", "rows": [{**row, "question": "How long?"} for row in rows]}
    made = await client.post("/admin/batch", json=order)
    assert made.status_code == 201, made.text
    job = made.json()["id"]

    async def state() -> dict[str, Any]:
        return (await client.get(f"/admin/batch/{job}")).json()

    ended = await until(state, lambda found: found["status"] in ("completed", "failed", "cancelled"), 3_600)
    assert ended["status"] == "completed", ended
    found = (await client.get(f"/admin/batch/{job}/rows", params={"limit": 10_000})).json()["rows"]
    return [row["payload"] for row in found]


async def replay(
    client: httpx2.AsyncClient, online: list[dict[str, Any]], batch: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Every other receipt of the online path, and the ones between of the batch."""
    predictions = [
        online[at]["prediction"] if at % 2 == 0 else batch[at]["answer_prediction"] for at in range(len(online))
    ]

    async def again(prediction: str) -> dict[str, Any]:
        response = await client.post(f"/admin/predictions/{prediction}/replay")
        assert response.status_code == 200, response.text
        return response.json()

    return await at_once(AT_ONCE, [lambda one=one: again(one) for one in predictions])


@asynccontextmanager
async def busy(client: httpx2.AsyncClient, rows: list[Row]) -> AsyncIterator[None]:
    """Other generations for as long as the block lasts: a batch job of other moments, and sampled chat beside it.

    The job shares the replays' priority; the chat goes before both, so it leaves pauses for them.
    """
    earlier = [{**row, "as_of": (datetime.fromisoformat(row["as_of"]) - EVERY / 3).isoformat()} for row in rows]
    (await client.post("/admin/batch", json={"application": "desk", "rows": earlier * 5})).raise_for_status()

    async def talk() -> None:
        for turn in range(100_000):
            message = {"role": "user", "content": f"Tell me about {rows[turn % len(rows)]['shop']} {turn}."}
            asked = {"model": "smollm2-135m", "messages": [message], "seed": turn, "max_tokens": 8 + turn % 24}
            response = await client.post("/v1/chat/completions", json=asked)
            assert response.status_code == 200, response.text
            await asyncio.sleep(1.0)

    talking = asyncio.create_task(talk())
    try:
        yield
        assert not talking.done(), talking.exception()
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)


async def at_once(most: int, acts: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
    """Do them all, so many at a time; results in order."""
    places = asyncio.Semaphore(most)

    async def one(act: Callable[[], Awaitable[T]]) -> T:
        async with places:
            return await act()

    return list(await asyncio.gather(*map(one, acts)))


def summarize(
    online: list[dict[str, Any]], batch: list[dict[str, Any]], replays: list[dict[str, Any]], asked: float, again: float
) -> dict[str, Any]:
    different = [
        {"online": one["text"], "batch": other["answer_text"]}
        for one, other in zip(online, batch, strict=True)
        if one["text"] != other["answer_text"]
    ]
    failed = [one for one in replays if not (one["identical"] and one["served_identical"])]
    guards = Counter(made["guards"][-1]["action"] if made["guards"] else "none" for made in online)
    return {
        "benchmark": "parity",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "requests": len(online),
        "equal": len(online) - len(different),
        "replayed": len(replays),
        "identical": len(replays) - len(failed),
        "generations_replayed": sum(len(one["attempts"]) for one in replays),
        "distinct_texts": len({one["text"] for one in online}),
        "guards": dict(guards),
        "asked_seconds": round(asked, 1),
        "replayed_seconds": round(again, 1),
        "different": different[:3],
        "not_identical": failed[:3],
        "holds": not different and not failed,
    }


def show(summary: dict[str, Any]) -> None:
    print(f"{'same text on both paths':<34}{summary['equal']} of {summary['requests']}")
    print(f"{'replayed byte for byte under load':<34}{summary['identical']} of {summary['replayed']}")
    print(f"{'generations behind the replays':<34}{summary['generations_replayed']}")
    print(f"{'distinct texts':<34}{summary['distinct_texts']}")
    print(f"{'guards ended with':<34}{summary['guards']}")
    print(f"{'seconds (both paths, replays)':<34}{summary['asked_seconds']}, {summary['replayed_seconds']}")
    for one in [*summary["different"], *summary["not_identical"]]:
        print("  ", one)


def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
