"""How many answers are found in store while features keep changing: without refreshing, with it, and at best.

Run ``python -m benchmarks.batches.answers_cache --size ci|demo|full``: a table, then one JSON line, also in
``results/answers_cache.jsonl``. Questions are drawn from a Zipf distribution over entities (exponent 1.1) whose order
drifts: with each publication some entities change places. Each publication changes the printed figures of two in five
entities. Everything but the model is the product's own: catalog, answerer, refresher; time is virtual.

*None* refreshes nothing; *predicted* so many answers of those most asked for by decayed counts; *any* as many answers
of entities that were ever asked about, by chance; *clairvoyant* those that will be asked for most before the next
publication. A hit is an online answer that came from store. ``batch`` is what the refresher generated, and ``wasted``
how much of that nobody asked for before it was out of date.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
from tests.harness.small_desk import DESK, SCOPE, FeatureTable, SmallDesk

from antiphon.batch.demand import Demand, EntityDemand
from antiphon.definitions.application import Reuse
from antiphon.engine.api.messages import EngineDescription, EngineLoad
from antiphon.features.values import FeatureVector
from antiphon.orchestration.refreshed_answers import AnswerSources, RefreshedAnswers
from antiphon.testing.scripted_engine import ScriptedEngine, echo

SIZES = {"ci": (60, 4, 60, 2), "demo": (300, 7, 150, 3), "full": (2_000, 12, 1_500, 5)}
"""Entities, publications, requests between two of them, seeds."""
BOUNDS = {"ci": (10,), "demo": (20, 40, 80), "full": (100, 250, 500)}
EXPONENT = 1.1
CHANGED = 0.4
MOVED = 0.05
EVERY = timedelta(hours=1)
CONCURRENCY = 8

Policy = Literal["none", "predicted", "any", "clairvoyant"]


class ByEntity(FeatureTable):
    """A delay for each entity."""

    def __init__(self) -> None:
        super().__init__()
        self.delays: dict[str, float] = {}

    def read(
        self,
        views: Mapping[str, str],
        keys: Mapping[str, str],
        as_of: datetime,
        minimum_publication: int | None = None,
    ) -> FeatureVector:
        self.set(as_of, congestion__delay=self.delays.get(keys["flight"], 0.0))
        return super().read(views, keys, as_of, minimum_publication)


class Drawn(msgspec.Struct, frozen=True):
    """One world: for each period the entities that change before it, and who is asked about in it."""

    changes: tuple[tuple[str, ...], ...]
    questions: tuple[tuple[str, ...], ...]


def draw(entities: int, periods: int, requests: int, seed: int) -> Drawn:
    """The same for every policy."""
    chance = random.Random(seed)
    names = [f"E{number}" for number in range(entities)]
    weights = [1.0 / (rank + 1) ** EXPONENT for rank in range(entities)]
    order = chance.sample(names, entities)
    changes, questions = [], []
    for _ in range(periods):
        changes.append(tuple(chance.sample(names, int(CHANGED * entities))))
        for _ in range(int(MOVED * entities)):
            a, b = chance.randrange(entities), chance.randrange(entities)
            order[a], order[b] = order[b], order[a]
        questions.append(tuple(chance.choices(order, weights, k=requests)))
    return Drawn(tuple(changes), tuple(questions))


class ByChance(Demand):
    """Any of those that were asked about."""

    def __init__(self, seed: int) -> None:
        super().__init__(EVERY.total_seconds())
        self._chance = random.Random(seed)

    def greatest(self, number: int, now: float) -> tuple[EntityDemand, ...]:
        known = super().greatest(10**9, now)
        return tuple(self._chance.sample(known, min(number, len(known))))


class Clairvoyant(Demand):
    """Those that will be asked about most."""

    def __init__(self, questions: Sequence[Sequence[str]], subjects: Mapping[str, str]) -> None:
        super().__init__(EVERY.total_seconds())
        self._questions = iter(questions)
        self._subjects = subjects

    def greatest(self, number: int, now: float) -> tuple[EntityDemand, ...]:
        known = {demand.subject: demand for demand in super().greatest(10**9, now)}
        asked = Counter(next(self._questions)).most_common()
        wanted = [self._subjects[name] for name, _ in asked if name in self._subjects]
        return tuple(known[subject] for subject in wanted if subject in known)[:number]


async def run(directory: Path, drawn: Drawn, policy: Policy, bound: int, seed: int) -> dict[str, Any]:
    """One policy over one world; the first period, in which the store is empty, is not counted."""
    application = msgspec.structs.replace(
        DESK,
        guards=(),
        output_schema=None,
        classes=(),
        reuse=Reuse("fingerprint", identical_prompts=False, refreshed=0 if policy == "none" else bound),
    )
    features = ByEntity()
    desk = SmallDesk(directory, ScriptedEngine(echo), application, features=features)
    subjects: dict[str, str] = {}

    async def describe() -> EngineDescription:
        return EngineDescription("describe", (), EngineLoad())

    parts = AnswerSources(
        applications=desk.releases.applications,
        live=desk.releases.live,
        publication=lambda scope: features.publication,
        receipts=desk.receipts,
        texts=desk.blobs,
        answer=desk.answerer.answer,
        describe=describe,
    )
    demands = {"any": lambda: ByChance(seed), "clairvoyant": lambda: Clairvoyant(drawn.questions, subjects)}
    refresher = RefreshedAnswers(SCOPE, parts, desk.clock, half_life=6 * EVERY, demand=demands.get(policy))

    async def ask(name: str) -> tuple[str, int]:
        request = desk.request(entity={"flight": name, "origin": "JFK"}, as_of=None)
        receipt = (await desk.answerer.answer(request)).receipt
        subjects[name] = receipt.subject
        if receipt.cache.origin == "stored":
            served.add(str(receipt.cache.prediction))
        return receipt.cache.origin, receipt.cache.saved_tokens

    hits = total = saved = 0
    served: set[str] = set()
    waiting = asyncio.Semaphore(CONCURRENCY)

    async def bounded(name: str) -> tuple[str, int]:
        async with waiting:
            return await ask(name)

    for period, (changes, questions) in enumerate(zip(drawn.changes, drawn.questions, strict=True)):
        for name in changes:
            features.delays[name] = features.delays.get(name, 0.0) + 10.0
        features.publication = (features.publication or 0) + 1
        refresher.look()  # sees that it is new; its round begins with a later look
        desk.clock.advance(timedelta(seconds=10))
        if period:
            for name in refresher.look():
                while await refresher.step(name):
                    pass
        answered = await asyncio.gather(*(bounded(name) for name in questions))
        desk.clock.advance(EVERY)
        if period:
            hits += sum(origin == "stored" for origin, _ in answered)
            saved += sum(tokens for _, tokens in answered)
            total += len(answered)
        elif policy != "none":
            refresher.look()  # reads who was asked about; its round finds everything as it is
            while await refresher.step("desk"):
                pass
    kept = desk.receipts.list(SCOPE, path="batch", limit=1_000_000)
    made = {receipt.prediction for receipt in kept if receipt.cache.origin == "generated"}
    desk.close()
    return {
        "hit_rate": hits / total,
        "saved_tokens": saved,
        "batch": len(made),
        "confirmed": refresher.counts.confirmed,
        "wasted": 1.0 - len(served & made) / len(made) if made else 0.0,
    }


def summarized(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and twice the standard error of the hit rate."""
    rates = [one["hit_rate"] for one in runs]
    error = statistics.stdev(rates) / len(rates) ** 0.5 if len(rates) > 1 else 0.0
    return {key: statistics.fmean(one[key] for one in runs) for key in runs[0]} | {"hit_rate_2se": 2 * error}


async def measured(size: str) -> list[dict[str, Any]]:
    """A line per policy and bound."""
    entities, periods, requests, seeds = SIZES[size]
    rows: list[dict[str, Any]] = []
    plan: list[tuple[Policy, int]] = [("none", 0)]
    plan += [(policy, bound) for bound in BOUNDS[size] for policy in ("any", "predicted", "clairvoyant")]
    runs: dict[tuple[Policy, int], list[dict[str, Any]]] = {one: [] for one in plan}
    for seed in range(seeds):
        drawn = draw(entities, periods, requests, seed)
        for policy, bound in plan:
            with tempfile.TemporaryDirectory() as directory:
                runs[policy, bound].append(await run(Path(directory), drawn, policy, bound, seed))
    for (policy, bound), found in runs.items():
        rows.append({"policy": policy, "bound": bound, **summarized(found)})
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and keep; exit code 1 when refreshing what is demanded brings no more hits than none or any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="demo")
    options = parser.parse_args(arguments)
    rows = asyncio.run(measured(options.size))
    print(f"{'policy':<12} {'bound':>6} {'hit rate':>16} {'saved tokens':>13} {'batch':>8} {'wasted':>7}")
    for row in rows:
        rate = f"{row['hit_rate']:.1%} ± {row['hit_rate_2se']:.1%}"
        print(
            f"{row['policy']:<12} {row['bound']:>6} {rate:>16} {row['saved_tokens']:>13.0f} {row['batch']:>8.0f} "
            f"{row['wasted']:>7.0%}"
        )
    by = {(row["policy"], row["bound"]): row["hit_rate"] for row in rows}
    good = all(by["predicted", bound] > max(by["none", 0], by["any", bound]) for bound in BOUNDS[options.size])
    line = json.dumps(
        {
            "benchmark": "answers_cache",
            "at": datetime.now(UTC).isoformat(),
            "size": options.size,
            "entities, publications, requests, seeds": SIZES[options.size],
            "rows": rows,
            "good": good,
        }
    )
    results = Path(__file__).parents[1] / "results"
    results.mkdir(exist_ok=True)
    with (results / "answers_cache.jsonl").open("a", encoding="utf-8") as kept:
        kept.write(line + "\n")
    print(line)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
