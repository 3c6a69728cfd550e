"""The project that the conductor's scenario conducts: its repositories, its schedules, and who takes their orders."""

from __future__ import annotations

from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import msgspec
from tests.simulation.process import Process
from tests.simulation.schedule_checks import LONG_AGO

from antiphon.catalog.asset_parts import AssetParts
from antiphon.catalog.features.definitions import AppliedProjects, DefinitionVersions
from antiphon.catalog.features.publications import Publications
from antiphon.catalog.features.snapshots import Snapshots
from antiphon.catalog.learning.evaluations import Evaluations
from antiphon.catalog.learning.outcomes import Outcomes
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.releases.rollouts import Rollouts
from antiphon.catalog.run_holds import RunHolds
from antiphon.catalog.schedules import Schedules
from antiphon.core.scope import Scope
from antiphon.core.settings import Settings
from antiphon.definitions.cron import CronTime
from antiphon.definitions.entity import EntitySpec
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.partitions import KeyedPartitions
from antiphon.definitions.schedules import EvaluateWork, PrecomputeWork, RetrainWork, ScheduleSpec, WorkflowWork
from antiphon.definitions.source import SourceSpec
from antiphon.definitions.triggers import AllOf, AnyOf, Interval, NewOutcomes, NewPublication, NewStaleness
from antiphon.definitions.workflows import WorkflowSpec
from antiphon.durable.runs import Runs
from antiphon.governance.audit.log import AuditLog
from antiphon.services.conducting.user_workflows import WorkflowOrder
from antiphon.services.workflows import TABLE_JOB, TRAIN, USER_WORKFLOWS

SCOPE, SECRET = Scope(), b"s" * 32
APPLICATION, VIEW = "desk", "congestion"
EVERY_MINUTE = CronTime("* * * * *")
SETTINGS = Settings()
KEYS = ("a", "b")
CLEAN = WorkflowSpec("clean", "module:clean", reads=("file/{key}.csv",), partitions=KeyedPartitions(KEYS))
TOTAL = WorkflowSpec("total", "module:total", reads=("workflow/clean",))
MADE = {"clean": WorkflowWork(CLEAN), "total": WorkflowWork(TOTAL)}
MAKE = USER_WORKFLOWS["batch"]
"""The workflow of the runs that make assets."""


class DriftReportsStub:
    """Reports of drift, which are not what is simulated."""

    def warnings(self, scope: Scope) -> tuple[()]:
        return ()


class TrainingOrdersStub:
    """Submits the run of a training without its checks of data and models, as ``TrainingOrders`` does: with the reason
    among its arguments."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def place(self, scope: Scope, principal: str, order: Any, by: Any) -> str:
        return self._runs.submit(scope, TRAIN, {"reason": order.reason, "principal": principal}, order.key)


class UserWorkflowsStub:
    """Submits runs of workflows without importing them, as ``UserWorkflows`` does: with the part among the
    arguments."""

    def __init__(self, store: Any) -> None:
        self._runs = store.runs

    def order(self, scope: Scope, by: Any, work: WorkflowWork, key: str, part: Any, *, as_applied: bool) -> str:
        spec = work.workflow
        order = WorkflowOrder(spec.name, spec, {}, "", by.id, part)
        return str(self._runs.submit(scope, MAKE, msgspec.to_builtins(order), key))


def project_store(process: Process) -> Any:
    """A project's store as one process has it open: of its repositories those that schedules need."""
    database = process.database
    return SimpleNamespace(
        scope=SCOPE,
        database=database,
        settings=SETTINGS,
        applied=AppliedProjects(database),
        paths=SimpleNamespace(root=Path("/project")),
        schedules=Schedules(database),
        asset_parts=AssetParts(database),
        evaluations=Evaluations(database),
        run_holds=RunHolds(database),
        runs=Runs(database),
        outcomes=Outcomes(database),
        publications=Publications(database),
        releases=Releases(database),
        rollouts=Rollouts(database),
        definitions=DefinitionVersions(database),
        snapshots=Snapshots(database),
        keys=SimpleNamespace(principals=SimpleNamespace(tenants=None)),  # Nothing is granted, so none is looked at.
        audit=AuditLog(database, SECRET),
    )


def drawn_views(random: Random) -> tuple[FeatureViewSpec, ...]:
    """Two views that are refreshed at one interval of some seconds, or none."""
    if random.random() < 0.6:
        return ()
    interval, source = random.randint(6, 30) * 1_000_000, SourceSpec("orders", "table", "at", None, None, "orders.csv")
    shop = EntitySpec("shop", ("shop",))
    return tuple(FeatureViewSpec(name, shop, source, {}, interval, "", "", "0" * 16) for name in ("today", "week"))


def drawn_schedules(random: Random) -> dict[str, ScheduleSpec]:
    """Two or three schedules, of every trigger there is over the seeds."""
    retrain, precompute, evaluate = RetrainWork(), PrecomputeWork("/shops.csv"), EvaluateWork()
    every = f"{random.randint(4, 15)}s"
    catch_up = random.choice((2.0, 15.0, LONG_AGO))
    choices: list[tuple[str, dict[str, Any]]] = [
        ("interval", {"when": Interval(every)}),
        ("interval", {"when": Interval(every)}),
        ("clock", {"when": EVERY_MINUTE, "catch_up": catch_up}),
        ("outcomes", {"when": NewOutcomes(random.randint(1, 3))}),
        ("published", {"when": NewPublication((VIEW,))}),
        ("any", {"when": AnyOf((NewOutcomes(2), Interval("20s")))}),
        ("all", {"when": AllOf((Interval(every), NewOutcomes(1)))}),
        ("deadline", {"ready_by": EVERY_MINUTE, "lead": random.choice((5.0, 20.0)), "catch_up": catch_up}),
    ]
    found = {}
    for name, trigger in random.sample(choices, random.choice((1, 2, 2, 3))):
        work_of = random.choice((retrain, retrain, precompute))
        settle = random.choice((0.0, 3.0, 6.0))
        found[name] = ScheduleSpec(name, APPLICATION, work_of, **{"settle": settle, **trigger})
    if random.random() < 0.5:
        found |= {name: ScheduleSpec(name, "", work, NewStaleness()) for name, work in MADE.items()}
    if random.random() < 0.15:
        found["refused"] = ScheduleSpec("refused", APPLICATION, evaluate, Interval("10s"))
    return found


def place_table_job(store: Any, scope: Scope, by: Any, order: Any) -> Any:
    """Submits the run of a table job, as ``TableOrders`` does: by a key that is made of the order's."""
    store.runs.submit(scope, TABLE_JOB, {"job": f"job_{order.key}"}, f"{TABLE_JOB}:job_{order.key}")
    return SimpleNamespace(id=f"job_{order.key}")
