"""answer() over a real catalog and a scripted engine, with features set by hand: what serving and batch are tested on.

Everything is the product's own but the model and the online store: :class:`FeatureTable` stands for the latter, so
that a test says what is read and when it was published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from tests.catalogs import catalog_url

from antiphon.catalog.batch.jobs import Jobs
from antiphon.catalog.database import Database
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.releases.evidence import Exposures, ShadowPairs
from antiphon.catalog.releases.releases import Bundle, ModelPin, Release, Releases
from antiphon.catalog.releases.rollouts import RolloutRecord as RolloutUnderWay
from antiphon.catalog.releases.rollouts import Rollouts
from antiphon.catalog.serving.answers import Answers
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.conversations import Conversations
from antiphon.catalog.serving.receipt import Receipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.catalog.serving.tool_journal import ToolJournal
from antiphon.core.clock import ManualClock
from antiphon.core.errors import NotFoundError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions.application import (
    SLO,
    ApplicationSpec,
    Decoding,
    Figure,
    Reuse,
)
from antiphon.definitions.guards import FigureGuard
from antiphon.definitions.learning import Rollout
from antiphon.definitions.prompt import Prompt
from antiphon.durable.runs import Runs
from antiphon.engine.api.port import GenerationEngine
from antiphon.features.values import FeatureValue, FeatureVector, MeasureValue
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.engine import Decider
from antiphon.releases.live import LeasedState, LiveReleases
from antiphon.serving.admission.limits import AdmissionController
from antiphon.serving.answerer import Answerer
from antiphon.serving.fallback.engines import FailoverPolicy
from antiphon.serving.replay import Replay, replay
from antiphon.serving.request import AnswerRequest
from antiphon.serving.services import Services
from antiphon.serving.shadow import ShadowLimits
from antiphon.testing.scripted_engine import ScriptedEngine

SCOPE = Scope("default", "test")
START = datetime(2013, 4, 10, 12, tzinfo=UTC)
ASKER = Principal("someone", "default", "service")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "outlook": {"enum": ["on_time", "delayed"]},
        "notice": {"type": "string", "maxLength": 160},
    },
    "required": ["outlook", "notice"],
    "additionalProperties": False,
}

DESK = ApplicationSpec(
    name="desk",
    features={"congestion": "v1", "weather": "v1"},
    entity_keys=("flight", "origin"),
    prompt=Prompt(
        system="You write notices.",
        template=(
            "Flight {{ entity.flight }} from {{ entity.origin }}: delay {{ features.congestion.delay }} minutes, "
            "wind {{ features.weather.wind }} mph. {{ question }}"
        ),
    ),
    model="scripted",
    decoding=Decoding(max_tokens=64),
    output_schema=json.dumps(SCHEMA),
    classes=("outlook",),
    figures=(
        Figure("congestion.delay", step=5, unit=("minutes", "min"), roles=("delay", "late")),
        Figure("weather.wind", step=5, unit=("mph",), roles=("wind",)),
    ),
    guards=(FigureGuard(property="notice", fallback="Delays now average {{ features.congestion.delay }} minutes."),),
    freshness={},
    reuse=Reuse(),
    slo=SLO(),
    rollout=Rollout(),
    purpose="passenger-information",
    owner="ops",
)
"""A structured application with a guard; change it with ``msgspec.structs.replace``."""
BARE: dict[str, Any] = {
    "features": {}, "entity_keys": (), "output_schema": None, "classes": (), "figures": (), "guards": (),
}  # fmt: skip
"""What makes an application of it that answers in free text and knows no entity."""


AT_ONCE = ShadowLimits(after=0.0)
"""A shadow begins as soon as the answer has left."""
PATIENT = FailoverPolicy()
"""Engines are given up as in the product."""


def read_value(value: MeasureValue, event_time: datetime | None) -> FeatureValue:
    """One feature as it is read."""
    return FeatureValue(value, event_time, "v1", "snap_1")


class FeatureTable:
    """Implements serving's ``EntityReader``: the same values for every entity, until they are set anew."""

    def __init__(self, **values: MeasureValue) -> None:
        self.publication: int | None = 1
        self.values: dict[str, FeatureValue] = {}
        self.asked: list[tuple[dict[str, str], dict[str, str], datetime]] = []
        self.set(START, **(values or {"congestion__delay": 26.0, "weather__wind": 11.0}))

    def set(self, event_time: datetime | None, **values: MeasureValue) -> None:
        """Publish values; ``view__feature`` names one."""
        for name, value in values.items():
            self.values[name.replace("__", ".", 1)] = read_value(value, event_time)

    def read(
        self,
        views: Mapping[str, str],
        keys: Mapping[str, str],
        as_of: datetime,
        minimum_publication: int | None = None,
    ) -> FeatureVector:
        self.asked.append((dict(views), dict(keys), as_of))
        if minimum_publication is not None and minimum_publication > (self.publication or 0):
            raise UnavailableError(f"Publication {minimum_publication} is not here yet.", where="features")
        return FeatureVector(
            self.publication, {name: value for name, value in self.values.items() if name.partition(".")[0] in views}
        )


class UnleasedReleases(LiveReleases):
    """Routes as a gateway does, without a lease, so moves act at once."""

    def _leased(self, scope: Scope, application: str) -> LeasedState:
        return self._read(scope, application)


class SmallDesk:
    """One catalog, one live release, one answerer. Close it when done.

    Args:
        directory: where the catalog's file is made, or a file says where the catalog is (``tests.catalogs``).
        engine: what generates.
        application: released and made live.
        commit: what acknowledges instead of the group commit.
        shadow_limits: bounds of the shadow.
        standbys: engines that may stand in, by name; ``plain_fallback`` names those of plain models.
        failover: when an engine is given up.
    """

    def __init__(
        self,
        directory: Path,
        engine: GenerationEngine,
        application: ApplicationSpec = DESK,
        *,
        features: FeatureTable | None = None,
        admission: AdmissionController | None = None,
        policies: str | None = None,
        commit: GroupCommit | None = None,
        online_seconds: float | None = None,
        shadow_limits: ShadowLimits = AT_ONCE,
        standbys: Mapping[str, GenerationEngine] | None = None,
        plain_fallback: tuple[str, ...] = (),
        failover: FailoverPolicy = PATIENT,
    ) -> None:
        self.clock = ManualClock(START + timedelta(minutes=1))
        self.database = Database.open(catalog_url(directory, "sqlite"), clock=self.clock)
        self.database.migrate()
        self.engine = engine
        self.blobs = Blobs(self.database)
        self.receipts = Receipts(self.database)
        self.releases = Releases(self.database)
        self.rollouts = Rollouts(self.database)
        self.routing = UnleasedReleases(self.releases, self.clock, rollouts=self.rollouts)
        self.exposures = Exposures(self.database)
        self.pairs = ShadowPairs(self.database)
        self.answers = Answers(self.database)
        self.conversations = Conversations(self.database)
        self.jobs = Jobs(self.database)
        self.runs = Runs(self.database)
        self.commit = GroupCommit(self.database)
        self.decider = Decider(policies)
        self.features = features or FeatureTable()
        self.release = self.publish(application)
        self.services = Services(
            engine=engine,
            features=lambda scope: self.features,
            releases=self.routing,
            decide=self.decider.decide,
            stored=self.answers,
            texts=self.blobs,
            conversations=self.conversations,
            tool_journal=ToolJournal(self.database),
            receipts=self.receipts,
            exposures=self.exposures,
            pairs=self.pairs,
            commit=commit or self.commit,
            clock=self.clock,
            admission=admission or AdmissionController(online=8, batch=8),
            subject_key=b"k" * 32,
            online_seconds=online_seconds,
            shadow_limits=shadow_limits,
            standbys=standbys or {},
            plain_fallback=plain_fallback,
            failover=failover,
        )
        self.answerer = Answerer(self.services)

    @property
    def scripted(self) -> ScriptedEngine:
        """The engine, of a desk that has a scripted one."""
        assert isinstance(self.engine, ScriptedEngine)
        return self.engine

    def publish(self, application: ApplicationSpec) -> Release:
        """Make a release of the application and make it live."""
        release = self.draft(application)
        self.releases.activate(SCOPE, application.name, release.id, "author", "a test")
        return self.releases.get(SCOPE, release.id)

    def draft(self, application: ApplicationSpec) -> Release:
        """Make a release of the application that nobody is answered with yet."""
        bundle = Bundle(application, ModelPin(application.model, None), self.decider.digest)
        return self.releases.add(bundle, SCOPE, "author", "a test")

    def roll_out(self, application: ApplicationSpec, plan: Rollout) -> RolloutUnderWay:
        """Begin to roll a candidate out beside the live release: in a canary when the plan has one, else in shadow."""
        candidate = self.draft(application)
        return self.rollouts.start(
            SCOPE,
            application.name,
            candidate.id,
            self.release.id,
            plan,
            "author",
            "a test",
            state="canary" if plan.canary else "shadow",
        )

    def request(self, **fields: Any) -> AnswerRequest:
        """A question about flight B6 1 from JFK, a minute after the features' event time."""
        return msgspec.structs.replace(
            AnswerRequest(
                scope=SCOPE,
                principal=ASKER,
                application="desk",
                entity={"flight": "B6 1", "origin": "JFK"},
                as_of=START + timedelta(minutes=1),
            ),
            **fields,
        )

    async def replay(
        self,
        receipt: Receipt,
        engine: GenerationEngine | None = None,
        standbys: Mapping[str, GenerationEngine] | None = None,
    ) -> Replay:
        """Generate again what a receipt records, by the desk's engine or another."""
        return await replay(
            receipt,
            engine=engine or self.engine,
            texts=self.blobs,
            receipt_of=self.receipts.get,
            release_of=self._released,
            standbys=standbys,
        )

    def _released(self, scope: Scope, release: str) -> Release | None:
        try:
            return self.releases.get(scope, release)
        except NotFoundError:
            return None  # a plain model's, which no catalog has

    def close(self) -> None:
        """Commit what waits and close the catalog."""
        self.commit.close()
        self.database.close()
