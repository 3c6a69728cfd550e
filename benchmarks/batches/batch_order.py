"""The order of batch work and its forecasts, on the simulated engine beside replayed arrivals.

Run ``python -m benchmarks.batches.batch_order --size ci|demo|full [--record]``: tables, then one JSON line.

The engine's own step loop, executors and kept prefixes run under a virtual clock with the calibrated costs of a small
model on two cores (``benchmarks.colocation``); the order of rows and jobs, the gauge and the estimates are the
product's own. Beside them run conversations of the Azure trace of 2023, whose rate changes every twenty minutes.

- *Prefixes*: one job whose lines take turns among system prompts, of which the engine can keep a quarter. Prompt tokens
  computed, beside the least that has to be computed (each beginning once, up to the last whole chunk).
- *Deadlines*: jobs of three tenants that come over time. How late they end: when tenants share out the engine and
  nobody looks at deadlines, by deadline alone (EDF), and as shipped.
- *Ends*: what was said of each job's end when it was ordered and after a quarter, a half and three quarters of its
  rows: how far off the middle was, as a share of the time left, and how often the interval (four of five) held.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.colocation import calibration as calibrations
from benchmarks.colocation.calibration import Calibration
from benchmarks.colocation.policies import ours
from benchmarks.colocation.simulator import Costed, Inbox, VirtualClock
from benchmarks.colocation.traces import Request, Scaling, arrivals
from msgspec.structs import replace

from antiphon.batch.estimates import Estimate, Estimates
from antiphon.batch.fair_queue import QueueState, SlotRequest, next_request
from antiphon.batch.gauge import Gauge, JobMeter
from antiphon.batch.row_plan import Prefix, RowSketch, distinct_bytes, sharing_order
from antiphon.catalog.batch.batch_work import EngineSupply, ForecastInputs, OpenJob, RowUsage, Sizes
from antiphon.catalog.serving.receipt import UsageReceipt
from antiphon.core.scope import Scope
from antiphon.engine.api.messages import GenerationRequest, GenerationResult, Priority
from antiphon.engine.execution.model_executor import Emission
from antiphon.engine.execution.prefix_cache import hash_prefixes
from antiphon.engine.execution.runtime import SequenceState
from antiphon.engine.execution.sequence import Sequence as Generation
from antiphon.engine.scheduling.service_level import ServiceLevel

RESULTS = Path(__file__).parents[1] / "results" / "batch_order.jsonl"
SCOPE = Scope()
TURNS = 16
BYTES_A_TOKEN = 4
KEPT_BYTES_A_TOKEN = 23_040
"""Of SmolLM2-135M in half precision: 30 layers, 3 heads of 64, keys and values."""
LEVEL = ServiceLevel(slowdown=0.25)
PROMPTS = 96
RATES = (0.02, 0.05, 0.08, 0.11)
BLOCK_SECONDS = 1_200.0
SPACING_SECONDS = 50.0
"""Between jobs, on average."""
MEASURE_SECONDS = 20.0
POINTS = (0.0, 0.25, 0.5, 0.75)
Rule = Callable[[Sequence[SlotRequest], QueueState, float], SlotRequest]


class LargeStates(Costed):
    """Kept states are as large as the model's: the engine can keep as many as it could in reality."""

    def copy_state(self, slot: int) -> SequenceState:
        held = self._held[slot]
        super().copy_state(slot)
        return np.broadcast_to(np.uint8(0), (held * KEPT_BYTES_A_TOKEN,))

    def restore_state(self, slot: int, state: SequenceState) -> None:
        held = len(state) // KEPT_BYTES_A_TOKEN
        super().restore_state(slot, np.frombuffer(held.to_bytes(8, "big"), dtype=np.uint8))


@dataclass(frozen=True)
class Order:
    """A job that is ordered at ``at``, with what it is due by; rows by line, with their prompts' tokens."""

    name: str
    tenant: str
    at: float
    deadline: float
    rows: tuple[RowSketch, ...]
    prompts: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]


@dataclass
class Said:
    """What was said of a job's end, after which share of its rows, and when."""

    job: str
    point: float
    at: float
    estimate: Estimate


@dataclass
class Outcome:
    """What came of a run."""

    seconds: float = 0.0
    ended: dict[str, float] = field(default_factory=dict)
    longest_wait: float = 0.0
    computed: int = 0
    reused: int = 0
    written: int = 0
    said: list[Said] = field(default_factory=list)


class Wall:
    """The virtual clock as wall time."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now, UTC)

    def monotonic(self) -> float:
        return self._clock.now


class InMemory:
    """Measurements as the catalog keeps them."""

    def __init__(self) -> None:
        self.jobs: dict[str, OpenJob] = {}
        self.done: dict[str, int] = {}
        self._usages: dict[str, RowUsage] = {}
        self._supplied: dict[float, EngineSupply] = {}

    def declare(self, scope: Scope, job: str, model: str, sizes: Sizes, deadline: Any, *, within: Any = None) -> None:
        moment = None if deadline is None else deadline.timestamp()
        self.jobs[job] = OpenJob(job, scope.tenant, model, sizes, deadline=moment)
        self._usages[job] = RowUsage()

    def used(self, scope: Scope, job: str, usage: RowUsage) -> None:
        self._usages[job] += usage

    def supply(self, scope: Scope, worker: str, got: EngineSupply) -> None:
        known = self._supplied.get(got.began, EngineSupply(got.began, 0.0, 0.0))
        self._supplied[got.began] = EngineSupply(
            got.began, known.seconds + got.seconds, known.engine_seconds + got.engine_seconds
        )

    def look(self, scope: Scope) -> ForecastInputs:
        left = [job for job in self.jobs.values() if self.done.get(job.id, 0) < job.sizes.rows]
        return ForecastInputs(
            tuple(replace(job, usage=self._usages[job.id], rows_done=self.done.get(job.id, 0)) for job in left),
            tuple((job.model, self._usages[job.id]) for job in self.jobs.values() if self._usages[job.id].rows),
            tuple(self._supplied.values()),
        )


class _Job:
    def __init__(self, order: Order, ordered: bool, meter: JobMeter) -> None:
        self.order = order
        self.left = list(sharing_order(order.rows) if ordered else order.rows)[::-1]
        self.meter = meter
        self.done = 0
        self.since = order.at
        self.points = list(POINTS)[::-1]


class Run:
    """One run: orders and online arrivals come when they come; a rule says whose row is next."""

    def __init__(
        self, calibration: Calibration, orders: Sequence[Order], online: Sequence[Request], rule: Rule, ordered: bool
    ) -> None:
        self._orders, self._online = list(orders)[::-1], list(enumerate(online))[::-1]
        alarms = sorted([*(order.at for order in orders), *(request.at for request in online)])
        self.clock = VirtualClock(alarms, self._ring)
        self._rule, self._ordered = rule, ordered
        self._jobs: dict[str, _Job] = {}
        self._wanted = len(orders)
        self.memory, wall = InMemory(), Wall(self.clock)
        self._gauge = Gauge(self.memory, SCOPE, "worker", wall)
        self.estimates = Estimates(self.memory, SCOPE, wall)
        self._under_way: dict[int, tuple[_Job, RowSketch, Any, SlotRequest]] = {}
        self._ticket = len(online) + 1
        self._turns = 0
        self._last: dict[str, tuple[int, int]] = {}
        self._measured = 0.0
        self._stopped = False
        self.outcome = Outcome()
        runtime = LargeStates(calibration, self.clock, np.random.default_rng(1))
        inbox = Inbox(self.clock, inf, self._more)
        self.loop = ours(LEVEL).loop(runtime, self.clock, self._told, inbox)

    def go(self) -> Outcome:
        """Run until every job has ended."""
        self.loop.run()
        counters = self.loop.executors[0].counters
        self.outcome.reused = counters.reused_prefix_tokens
        return self.outcome

    def _ring(self) -> None:
        if self._orders and (not self._online or self._orders[-1].at <= self._online[-1][1].at):
            self._take(self._orders.pop())
            return
        ticket, request = self._online.pop()
        prompt = [ticket + 1_000_000, *([1] * (request.prompt_tokens - 1))]
        self._submit(ticket + 1, prompt, request.output_tokens, "online", request.at)

    def _take(self, order: Order) -> None:
        rows = order.rows
        sizes = Sizes(
            len(rows),
            sum(row.prompt_bytes for row in rows),
            distinct_bytes(rows),
            sum(row.output_limit for row in rows),
        )
        scope = Scope(order.tenant)
        deadline = None if order.deadline == inf else datetime.fromtimestamp(order.deadline, UTC)
        self.memory.declare(scope, order.name, "openai/costed", sizes, deadline)
        meter = JobMeter(self._gauge, self.estimates, scope, order.name)
        self._jobs[order.name] = _Job(order, self._ordered, meter)
        self.estimates.forget()
        self._say(self._jobs[order.name])

    def _say(self, job: _Job) -> None:
        while job.points and job.done >= job.points[-1] * len(job.order.rows):
            point = job.points.pop()
            found = self.estimates.of(job.order.tenant, [job.order.name]).get(job.order.name)
            if found is not None:
                self.outcome.said.append(Said(job.order.name, point, self.clock.now, found))

    def _more(self) -> None:
        now = self.clock.now
        if len(self.outcome.ended) == self._wanted:
            if not self._stopped:
                self._stopped = True
                for ticket in range(1, self._ticket + 1):
                    self.loop.cancel(ticket)
                self.loop.stop()
            return
        if now - self._measured > MEASURE_SECONDS:
            self._measured = now
            for job in self._jobs.values():
                if job.order.name not in self.outcome.ended:
                    job.meter.keep()
        while len(self._under_way) < TURNS and (waiting := self._claims()):
            taken, escalated = dict[str, int](), 0
            for _, _, _, claim in self._under_way.values():
                taken[claim.tenant] = taken.get(claim.tenant, 0) + 1
                escalated += claim.escalates(now)
            chosen = self._rule(waiting, QueueState(TURNS, escalated, taken, self._last), now)
            self._ask(self._jobs[chosen.job], chosen)

    def _claims(self) -> list[SlotRequest]:
        return [
            SlotRequest(
                job.order.tenant, name, job.since, job.order.deadline, job.meter.seconds_left,
                job.left[-1].prefixes[0].digest,
            )
            for name, job in self._jobs.items()
            if job.left
        ]  # fmt: skip

    def _ask(self, job: _Job, claim: SlotRequest) -> None:
        row, now = job.left.pop(), self.clock.now
        self.outcome.longest_wait = max(self.outcome.longest_wait, now - job.since)
        job.since = now
        self._turns += 1
        self._last[claim.tenant] = (self._turns, claim.prefix)
        self._ticket += 1
        under_way = job.meter.gauge.row()
        under_way.__enter__()
        self._under_way[self._ticket] = (job, row, under_way, claim)
        order = job.order
        self._submit(self._ticket, order.prompts[row.line], order.outputs[row.line], "batch", now)

    def _submit(self, ticket: int, prompt: Sequence[int], tokens: int, priority: Priority, at: float) -> None:
        level = LEVEL if priority == "online" else None
        wanted = GenerationRequest(str(ticket), "costed", "", tokens, priority=priority, level=level, ignore_end=True)
        executor = self.loop.executors[0]
        chain = hash_prefixes(prompt, executor.runtime.layout.chunk_tokens)
        self.loop.submit(
            executor,
            Generation(
                ticket=ticket, request=wanted, prompt=list(prompt), forced=[], constraint=None,
                vocabulary=executor.runtime.vocabulary, prefix_hashes=chain, arrived=at,
            ),
        )  # fmt: skip

    def _told(self, emissions: list[Emission]) -> None:
        for ticket, event in emissions:
            if isinstance(event, GenerationResult) and ticket in self._under_way:
                self._ended(ticket, event)

    def _ended(self, ticket: int, event: GenerationResult) -> None:
        job, row, under_way, _ = self._under_way.pop(ticket)
        under_way.__exit__(None, None, None)
        usage = event.usage
        job.meter.took(
            row,
            UsageReceipt(
                prompt_tokens=usage.prompt_tokens,
                cached_prompt_tokens=usage.cached_prompt_tokens,
                completion_tokens=usage.completion_tokens,
                engine_seconds=usage.engine_seconds,
            ),
        )
        self.outcome.computed += usage.prompt_tokens - usage.cached_prompt_tokens
        self.outcome.written += usage.completion_tokens
        job.done += 1
        self.memory.done[job.order.name] = job.done
        if job.done == len(job.order.rows):
            self.outcome.ended[job.order.name] = self.outcome.seconds = self.clock.now
            job.meter.keep()
        else:
            self._say(job)


def fairly(waiting: Sequence[SlotRequest], turned: QueueState, now: float) -> SlotRequest:
    """Tenants share out the turns, first come first served within each; deadlines play no part."""
    return min(
        waiting,
        key=lambda one: (turned.held.get(one.tenant, 0), turned.last.get(one.tenant, (0, 0))[0], one.since),
    )


def by_deadline(waiting: Sequence[SlotRequest], turned: QueueState, now: float) -> SlotRequest:
    """EDF, always."""
    return min(waiting, key=lambda one: (one.deadline, one.since))


def online(seed: int, seconds: float) -> list[Request]:
    """Conversations at a rate that changes every twenty minutes."""
    chance, requests, at = random.Random(seed), list[Request](), 0.0
    while at < seconds:
        block = arrivals("conv", chance.randrange(100), BLOCK_SECONDS - 1, Scaling(rate=chance.choice(RATES)))
        requests += [Request(at + one.at, one.prompt_tokens, one.output_tokens) for one in block]
        at += BLOCK_SECONDS
    return requests


def job(chance: random.Random, name: str, tenant: str, at: float, within: float, count: int, prompts: int) -> Order:
    """Rows that take turns among system prompts of 96 to 384 tokens."""
    heads = [[chance.randrange(10**9)] * chance.randrange(96, 385) for _ in range(prompts)]
    digests = [chance.randrange(1, 2**63) for _ in heads]
    rows, texts, outputs = [], [], []
    for line in range(count):
        which = line % prompts
        head, tail = heads[which], [chance.randrange(10**9) for _ in range(chance.randrange(16, 65))]
        output = chance.randrange(8, 33)
        whole = (len(head) + len(tail)) * BYTES_A_TOKEN
        prefixes = (Prefix(digests[which], len(head) * BYTES_A_TOKEN), Prefix(chance.randrange(1, 2**63), whole))
        rows.append(RowSketch(line, 0, whole, 32, prefixes))
        texts.append((*head, *tail))
        outputs.append(output)
    return Order(name, tenant, at, at + within, tuple(rows), tuple(texts), tuple(outputs))


def computed_limit(order: Order, chunk: int) -> int:
    """Prompt tokens that have to be computed if every beginning of whole chunks is computed once."""
    seen = set[bytes]()
    total = 0
    for prompt in order.prompts:
        digests = hash_prefixes(prompt, chunk).digests
        shared = sum(1 for digest in digests if digest in seen)
        seen.update(digests)
        total += len(prompt) - shared * chunk
    return total


def prefixes(calibration: Calibration, seed: int, count: int) -> dict[str, Any]:
    """One job, in the order of its file and as shipped."""
    chance = random.Random(seed)
    wanted = job(chance, "one", "a", 0.0, inf, count, prompts=PROMPTS)
    load = online(seed, 40 * count)
    found: dict[str, Any] = {
        "prompt_tokens": sum(map(len, wanted.prompts)),
        "limit": computed_limit(wanted, calibration.chunk_tokens),
    }
    for name, ordered in (("by line", False), ("as shipped", True)):
        outcome = Run(calibration, [wanted], load, next_request, ordered).go()
        found[name] = {
            "computed": outcome.computed,
            "saved": round(1 - outcome.computed / found["prompt_tokens"], 4),
            "of_saving_limit": round(
                (found["prompt_tokens"] - outcome.computed) / (found["prompt_tokens"] - found["limit"]), 4
            ),
            "seconds": round(outcome.seconds, 1),
        }
    return found


def workload(seed: int, jobs: int) -> list[Order]:
    """Jobs of three tenants; what is asked of each is between little and much more than it needs."""
    chance, orders, at = random.Random(seed), list[Order](), 0.0
    for number in range(jobs):
        count = chance.choice((60, 120, 240, 480))
        within = count * chance.uniform(0.3, 1.8) + 20.0
        orders.append(job(chance, f"job{number}", chance.choice("abc"), at, within, count, chance.choice((4, 12, 24))))
        at += chance.expovariate(1 / SPACING_SECONDS)
    return orders


RULES: dict[str, tuple[Rule, bool]] = {
    "by line, shared out": (fairly, False),
    "by line, EDF": (by_deadline, False),
    "by prefix, EDF": (by_deadline, True),
    "as shipped": (next_request, True),
}


def deadlines(calibration: Calibration, seed: int, jobs: int) -> dict[str, Any]:
    """How late jobs end by each rule."""
    orders, found = workload(seed, jobs), dict[str, Any]()
    load = online(seed + 1_000, orders[-1].at + 36_000.0)
    for name, (rule, ordered) in RULES.items():
        outcome = Run(calibration, orders, load, rule, ordered).go()
        late = [max(outcome.ended[order.name] - order.deadline, 0.0) for order in orders]
        found[name] = {
            "late": sum(1 for one in late if one > 0) / len(late),
            "tardiness": statistics.mean(late),
            "worst": max(late),
            "mean_flow": statistics.mean(outcome.ended[order.name] - order.at for order in orders),
            "seconds": outcome.seconds,
            "computed": outcome.computed,
            "longest_wait": outcome.longest_wait,
        }
    return found


def ends(calibration: Calibration, seed: int, jobs: int) -> list[tuple[float, float, bool]]:
    """What was said of ends in a run as shipped: after which share of the rows, how far off, whether within."""
    orders = workload(seed + 500, jobs)
    load = online(seed + 2_000, orders[-1].at + 36_000.0)
    outcome, calls = Run(calibration, orders, load, next_request, True).go(), []
    for said in outcome.said:
        actual, estimate = outcome.ended[said.job], said.estimate
        error = (estimate.ends_at.timestamp() - actual) / max(actual - said.at, 1.0)
        # Estimates are told in whole seconds.
        inside = estimate.earliest.timestamp() - 1 <= actual <= estimate.latest.timestamp() + 1
        calls.append((said.point, error, inside))
    return calls


SIZES = {"ci": (1, 288, 5, 1), "demo": (1, 480, 10, 4), "full": (6, 1_920, 40, 24)}
"""Seeds, rows of the job with prefixes, jobs with deadlines, seeds of forecasts."""


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batches.batch_order", description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="demo")
    parser.add_argument("--record", action="store_true", help="append the JSON line to benchmarks/results")
    options = parser.parse_args()
    seeds, rows, jobs, forecasts = SIZES[options.size]
    calibration = calibrations.reference()
    of_prefixes = [prefixes(calibration, seed, rows) for seed in range(seeds)]
    runs = [deadlines(calibration, seed, jobs) for seed in range(seeds)]
    calls = [call for seed in range(forecasts) for call in ends(calibration, seed, jobs)]
    figures = summary(of_prefixes, runs, calls)
    print(table(figures))
    line = json.dumps({"benchmark": "batch_order", "size": options.size, "simulated": True, "seeds": seeds, **figures})
    if options.record:
        with RESULTS.open("a", encoding="utf-8") as results:
            results.write(line + "\n")
    print(line)
    return 0


def summary(
    of_prefixes: list[dict[str, Any]], runs: list[dict[str, Any]], calls: list[tuple[float, float, bool]]
) -> dict[str, Any]:
    """Means over seeds; medians over forecasts."""
    saved = {
        name: {
            "saved": round(statistics.mean(one[name]["saved"] for one in of_prefixes), 4),
            "of_saving_limit": round(statistics.mean(one[name]["of_saving_limit"] for one in of_prefixes), 4),
            "seconds": round(statistics.mean(one[name]["seconds"] for one in of_prefixes), 1),
        }
        for name in ("by line", "as shipped")
    }
    late = {
        name: {
            what: round(statistics.mean(found[name][what] for found in runs), 3)
            for what in ("late", "tardiness", "worst", "mean_flow", "seconds", "computed", "longest_wait")
        }
        for name in RULES
    }
    told = {}
    for point in POINTS:
        errors = [(error, inside) for at, error, inside in calls if at == point]
        if errors:
            told[f"{point:.0%}"] = {
                "forecasts": len(errors),
                "bias": round(statistics.median(error for error, _ in errors), 3),
                "error": round(statistics.median(abs(error) for error, _ in errors), 3),
                "inside": round(statistics.mean(inside for _, inside in errors), 3),
            }
    return {"prefixes": saved, "deadlines": late, "ends": told}


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{'one job with 96 system prompts':<32} {'saved':>8} {'of limit':>9} {'seconds':>9}"]
    for name, one in figures["prefixes"].items():
        lines.append(f"{name:<32} {one['saved']:>8.1%} {one['of_saving_limit']:>9.1%} {one['seconds']:>9.0f}")
    head = ("late", "tardiness", "worst", "mean flow", "all done", "computed", "longest wait")
    lines.append(f"\n{'jobs with deadlines':<24}" + "".join(f"{one:>13}" for one in head))
    for name, one in figures["deadlines"].items():
        lines.append(
            f"{name:<24}{one['late']:>13.1%}"
            + "".join(f"{one[what]:>13,.0f}" for what in ("tardiness", "worst", "mean_flow", "seconds", "computed"))
            + f"{one['longest_wait']:>13.1f}"
        )
    lines.append(f"\n{'end said after':<24}{'forecasts':>13}{'bias':>13}{'error':>13}{'inside':>13}")
    for name, one in figures["ends"].items():
        lines.append(
            f"{name + ' of the rows':<24}{one['forecasts']:>13}{one['bias']:>13.1%}{one['error']:>13.1%}"
            f"{one['inside']:>13.1%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
