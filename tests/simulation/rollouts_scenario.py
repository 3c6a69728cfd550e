"""Rollouts: judges of several workers and people at several gateways move them at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.harness.outcomes import pair_scorer
from tests.simulation.audit_checks import AuditObserver, check_log
from tests.simulation.process import Process
from tests.simulation.rollout_checks import RolloutObserver
from tests.simulation.world import World
from tests.unit.catalog.examples import bundle

from antiphon.catalog.database import Database
from antiphon.catalog.learning.outcomes import Outcomes
from antiphon.catalog.releases.evidence import Exposures, Judgements, ShadowPairs
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.releases.rollouts import Judgement, RolloutRecord, Rollouts
from antiphon.core.errors import ConflictError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.definitions.application import Decoding
from antiphon.definitions.learning import Rollout
from antiphon.governance.audit.log import AuditLog
from antiphon.orchestration.rollouts import EvidenceReader, RolloutKeeper
from antiphon.releases.rollout import RolloutTransitions

SCOPE, SECRET, DESK = Scope(), b"s" * 32, "desk"
PLAN = Rollout(shadow=0.5, shadow_pairs=1, canary=(5, 50), patience="8s")
DIRECT = Rollout(canary=(10,), patience="10s")


class RolloutsScenario:
    """Judges, operators, and the promises that they were given.

    Attributes:
        told: acts that were acknowledged, by the reason they were given.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.releases: list[str] = []
        self.told: dict[str, str] = {}
        self.acts = 0

    async def play(self) -> None:
        world = self.world
        self.prepare(world.boot("setup"))
        observer = RolloutObserver(world)
        AuditObserver(world)
        for number in range(self.random.choice((1, 2, 2))):
            world.keep_up(f"judge-{number}", self.keeper)
        world.keep_up("gateway-0", self.gateway)
        world.keep_up("gateway-1", self.gateway)
        operators = [asyncio.ensure_future(self.operator()) for _ in range(2)]
        await world.until(lambda: all(one.done() for one in operators), 25.0)
        world.heal()
        await asyncio.gather(*operators)
        await asyncio.sleep(3.0)
        observer.check_end(self.told)
        check_log(world.boot("check"), SCOPE, SECRET)

    def prepare(self, process: Process) -> None:
        transitions, releases = self.transitions(process.database), Releases(process.database)
        healed, self.world.healed = self.world.healed, True
        for number in range(4):
            plan = PLAN if number % 2 else DIRECT
            release = releases.add(bundle(rollout=plan, decoding=Decoding(seed=number)), SCOPE, "author", "why")
            releases.set_stage(SCOPE, release.id, "validated", principal="gates", reason="passed")
            self.releases.append(release.id)
        transitions.activate(SCOPE, DESK, self.releases[0], principal="author", reason="first")
        self.world.healed = healed

    def transitions(self, database: Database) -> RolloutTransitions:
        return RolloutTransitions(
            database,
            Releases(database),
            Rollouts(database),
            audit=AuditLog(database, SECRET),
            feature_exists=lambda scope, view, version: True,
        )

    async def gateway(self, process: Process) -> None:
        await process.stop.wait()

    async def keeper(self, process: Process) -> None:
        database = process.database
        evidence = EvidenceReader(Exposures(database), ShadowPairs(database), pair_scorer(database), Outcomes(database))
        keeper = RolloutKeeper(
            SCOPE, database, Releases(database), Rollouts(database), Judgements(database), self.transitions(database),
            evidence, self.judge, every=1.0,
        )  # fmt: skip
        await keeper.run_until(process.stop)

    def judge(self, rollout: RolloutRecord, exposures: Any, pairs: Any, now: Any, slo: Any, *others: Any) -> Judgement:
        """Decides by chance: what is simulated is whether its decisions are carried out as one."""
        decision = self.random.choice(("promote", "promote", "hold", "hold", "roll_back"))
        self.acts += 1
        return Judgement(
            rollout=rollout.id, sequence=0, scope=rollout.scope, state=rollout.state, step=rollout.step,
            decision=decision, sentence=f"judgement {self.acts}", metrics=(), harm=0.0, harm_bound=100.0,
            safe_bound=20.0, created_at=now,
        )  # fmt: skip

    async def operator(self) -> None:
        for _ in range(self.random.randint(3, 6)):
            await asyncio.sleep(self.random.random() * 1.5)
            self.acts += 1
            reason = f"operator {self.acts}"
            name = self.random.choice(
                ("begin", "begin", "begin", "hold", "resume", "abort", "advance", "rollback", "activate")
            )
            release = self.random.choice(self.releases)

            async def act(process: Process, name: str = name, release: str = release, reason: str = reason) -> Any:
                return await process.call(self.acting(process, name, release, reason))

            try:
                done = await self.world.told("gateway", act)
            except (ConflictError, InvalidInputError):
                continue
            if done is not None:
                self.told[reason] = name

    def acting(self, process: Process, name: str, release: str, reason: str) -> Callable[[], Any]:
        transitions = self.transitions(process.database)
        said = {"principal": "operator", "reason": reason}

        def upon_active(act: Callable[..., Any]) -> Any:
            active = transitions.rollouts.active(SCOPE, DESK)
            if active is None:
                return None
            done = act(SCOPE, active.id, **said)
            return done if done.reason == reason else None  # Holding what is held changes nothing.

        match name:
            case "begin":
                return partial(transitions.begin, SCOPE, release, force=True, **said)
            case "rollback":
                return partial(transitions.rollback, SCOPE, DESK, **said)
            case "activate":
                return partial(self.activated, transitions, release, said)
            case other:
                return partial(upon_active, getattr(transitions, other))

    def activated(self, transitions: RolloutTransitions, release: str, said: dict[str, str]) -> Any:
        done = transitions.activate(SCOPE, DESK, release, force=True, **said)
        return done if done.reason.endswith(said["reason"]) else None


async def play(world: World) -> None:
    """The scenario."""
    await RolloutsScenario(world).play()
