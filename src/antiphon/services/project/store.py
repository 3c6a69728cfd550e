"""The stores of one project, opened: what every process and every command starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from antiphon.catalog.asset_parts import AssetParts
from antiphon.catalog.batch.jobs import Jobs
from antiphon.catalog.budgets import Budgets
from antiphon.catalog.database import Backend, Database, backend_of
from antiphon.catalog.exported_files import ExportedFiles
from antiphon.catalog.features.backfills import Backfills
from antiphon.catalog.features.definitions import AppliedProjects, DefinitionVersions
from antiphon.catalog.features.events import EventLog, StreamHomes
from antiphon.catalog.features.followed_streams import FollowedStreams
from antiphon.catalog.features.publications import FeatureHolds, Publications
from antiphon.catalog.features.skew_reports import SkewReports
from antiphon.catalog.features.snapshots import Snapshots
from antiphon.catalog.features.verdicts import StagedSnapshots, Verdicts
from antiphon.catalog.incidents import Incidents
from antiphon.catalog.learning.annotations import Annotations
from antiphon.catalog.learning.datasets import Datasets
from antiphon.catalog.learning.evaluations import Evaluations
from antiphon.catalog.learning.models import ModelVersions
from antiphon.catalog.learning.outcomes import Outcomes
from antiphon.catalog.learning.regressions import RegressionSets
from antiphon.catalog.learning.safety import SafetyReports
from antiphon.catalog.learning.trials import Trials
from antiphon.catalog.ledger import Ledger
from antiphon.catalog.lineage_acknowledgments import LineageAcknowledgments
from antiphon.catalog.measurements import MeasurementRows
from antiphon.catalog.notification_deliveries import NotificationDeliveries
from antiphon.catalog.notifications import Notifications
from antiphon.catalog.playbooks import PlaybookPermissions, PlaybookRuns
from antiphon.catalog.prices import Prices
from antiphon.catalog.releases.evidence import Exposures, Judgements, ShadowPairs
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.releases.rollouts import Rollouts
from antiphon.catalog.releases.watches import ReleaseWatches
from antiphon.catalog.run_holds import RunHolds
from antiphon.catalog.schedules import Schedules
from antiphon.catalog.serving.answers import Answers
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.conversations import Conversations
from antiphon.catalog.serving.receipt_search import ReceiptSearch
from antiphon.catalog.serving.receipts import Receipts
from antiphon.catalog.serving.tool_journal import ToolJournal
from antiphon.core import settings
from antiphon.core.clock import parse_duration
from antiphon.core.leases import Renewer
from antiphon.core.scope import Scope
from antiphon.core.settings_sections import CatalogSettings
from antiphon.durable.runs import Runs
from antiphon.features.streaming.nats_log import NatsEventLog
from antiphon.features.streaming.nats_server import NatsServer
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.encryption.protection import Protection, protect
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.tenants import LiveTenants
from antiphon.governance.policy.live import LivePolicies
from antiphon.governance.policy.recent_requests import RecentRequests
from antiphon.governance.policy.versions import PolicySets
from antiphon.governance.secret import load_secret
from antiphon.services.governance.audit_trail import AuditTrail
from antiphon.services.governance.granted import GrantedResources
from antiphon.services.moving.marks import require_present, store_places
from antiphon.services.project.credentials import catalog_access, log_access
from antiphon.services.project.required_files import RequiredFiles, secret_file

if TYPE_CHECKING:
    from antiphon.core.telemetry_export import Telemetry
    from antiphon.services.budgets.gate import BudgetGate
    from antiphon.serving.answer_metrics import AnswerMetrics

T = TypeVar("T")


def _repository(kind: Callable[[Database], T]) -> cached_property[T]:
    """A repository over the catalog, made when it is first asked for."""
    return cached_property(lambda store: kind(store.database))


class Store:
    """One project's settings, paths, secrets and repositories. Close it when done."""

    protection: Protection
    """Mode of encryption of payloads."""

    waited = False
    """True when this process waited for the end of a live move before it opened the stores."""

    blobs = _repository(Blobs)
    applied = _repository(AppliedProjects)
    definitions = _repository(DefinitionVersions)
    snapshots = _repository(Snapshots)
    verdicts = _repository(Verdicts)
    skew_reports = _repository(SkewReports)
    staged = _repository(StagedSnapshots)
    followed_streams = _repository(FollowedStreams)
    holds = _repository(FeatureHolds)
    backfills = _repository(Backfills)
    publications = _repository(Publications)
    releases = _repository(Releases)
    rollouts = _repository(Rollouts)
    watches = _repository(ReleaseWatches)
    models = _repository(ModelVersions)
    judgements = _repository(Judgements)
    exposures = _repository(Exposures)
    pairs = _repository(ShadowPairs)
    evaluations = _repository(Evaluations)
    safety_reports = _repository(SafetyReports)
    trials = _repository(Trials)
    annotations = _repository(Annotations)
    regressions = _repository(RegressionSets)
    datasets = _repository(Datasets)
    outcomes = _repository(Outcomes)
    receipts = _repository(Receipts)
    receipt_search = _repository(ReceiptSearch)
    answers = _repository(Answers)
    conversations = _repository(Conversations)
    tool_journal = _repository(ToolJournal)
    jobs = _repository(Jobs)
    runs = _repository(Runs)
    ledger = _repository(Ledger)
    prices = _repository(Prices)
    budgets = _repository(Budgets)
    run_holds = _repository(RunHolds)
    schedules = _repository(Schedules)
    asset_parts = _repository(AssetParts)
    exported_files = _repository(ExportedFiles)
    lineage_acknowledgments = _repository(LineageAcknowledgments)
    notifications = _repository(Notifications)
    notification_deliveries = _repository(NotificationDeliveries)
    incidents = _repository(Incidents)
    playbook_runs = _repository(PlaybookRuns)
    playbook_permissions = _repository(PlaybookPermissions)
    recent_requests = _repository(RecentRequests)

    def __init__(self, project: settings.Settings, paths: settings.ProjectPaths) -> None:
        self.settings = project
        self.paths = paths

    @classmethod
    def open(cls, root: Path, *, moved: bool = False) -> Store:
        """Open a project's stores and bring the catalog's schema up to date.

        Args:
            moved: also a project whose catalog or stores were moved elsewhere.

        Raises:
            NotFoundError: no project here.
            InvalidInputError: bad settings. SetupError: the directory cannot be written.
        """
        store = cls.unprotected(root, moved=moved)
        try:
            store.required_files.require_secrets()
            store.protection = protect(store.database, store.settings.encryption, store.scope, store.paths.root)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def unprotected(cls, root: Path, *, moved: bool = False) -> Store:
        """Open a project's stores without a codec, for what decides about the codec; otherwise as :meth:`open`."""
        store = cls(*settings.load(root))
        store.paths.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            store.required_files.require_catalog()
            store.database.migrate()
            if not moved:
                store.database.fence()
                require_present(store.database, store_places(store.settings))
        except BaseException:
            store.close()
            raise
        return store

    @property
    def scope(self) -> Scope:
        """Tenant and environment this project's commands work in."""
        return self.settings.scope

    @property
    def traces(self) -> Path | None:
        """The folder of this project's traces; ``None``: none are recorded."""
        return self.paths.logs if self.settings.telemetry.traces else None

    def telemetry(self, kind: str, name: str) -> Telemetry:
        """The telemetry of this process, which its entry point begins."""
        from antiphon.core.telemetry_export import Telemetry

        declared = self.settings.telemetry
        return Telemetry(kind, name, self.traces, declared.bounds, self.scope.environment, declared.traces_per_second)

    @cached_property
    def answer_metrics(self) -> AnswerMetrics:
        """Metrics of the answers that this process makes."""
        from antiphon.serving.answer_metrics import AnswerMetrics

        metrics = AnswerMetrics()
        metrics.registry.register(self.database.refused)
        return metrics

    @cached_property
    def budget_gate(self) -> BudgetGate:
        """Reserves of budgets for the answers that this process makes."""
        from antiphon.services.budgets.gate import BudgetGate

        section, engines = self.settings.budgets, self.settings.engines.values()
        return BudgetGate(
            self.database,
            token_seconds=section.token_seconds,
            patience=parse_duration(section.patience).total_seconds(),
            gpus=max(self.settings.engine.gpus, *(one.gpus for one in engines), 0),
            renewer=self.renewer,
        )

    @cached_property
    def measurements(self) -> MeasurementRows:
        """The history of what the environment's processes measured."""
        return MeasurementRows(self.database, self.scope.environment)

    @cached_property
    def required_files(self) -> RequiredFiles:
        """The catalog and the secrets, without which the project's data is lost."""
        return RequiredFiles(self.paths, self.settings.features.online, self.backend, lambda: self.database)

    @cached_property
    def backend(self) -> Backend:
        """The place of the catalog; nothing is opened yet."""
        return _place(self.settings.catalog, self.paths)

    @cached_property
    def database(self) -> Database:
        return Database.of(self.backend)

    @cached_property
    def renewer(self) -> Renewer:
        """Renews leases ahead in a process that starts it: one that answers."""
        return Renewer()

    @cached_property
    def nats(self) -> NatsServer | None:
        """The server of the event log; ``None`` when that is in the catalog."""
        section = self.settings.features
        if section.log is None:
            return None
        return NatsServer(section.log, log_access(section, self.paths.root))

    @cached_property
    def events(self) -> EventLog | NatsEventLog:
        if self.nats is None:
            return EventLog(self.database)
        return NatsEventLog(self.nats, StreamHomes(self.database), self.database.codec)

    @cached_property
    def keys(self) -> Keys:
        bound = parse_duration(self.settings.identity.revocation_bound).total_seconds()
        return Keys(self.database, self.secret("server"), revocation_bound=bound, renewer=self.renewer)

    @cached_property
    def policy_sets(self) -> PolicySets:
        return PolicySets(self.database, self.audit.append)

    @cached_property
    def decider(self) -> LivePolicies:
        return LivePolicies(self.policy_sets, self.database.clock, self.scope, renewer=self.renewer)

    @cached_property
    def tenants(self) -> LiveTenants:
        """Shares and quotas of tenants."""
        return LiveTenants(self.keys.principals.tenants, self.database.clock, renewer=self.renewer)

    @cached_property
    def granted(self) -> GrantedResources:
        return GrantedResources(
            self.scope.environment,
            self.database,
            tenants=self.keys.principals.tenants,
            policies=self.decider,
            record=lambda *act, **options: self.trail.enqueue(*act, **options),
            configured=self.settings.engine.models,
            renewer=self.renewer,
        )

    @cached_property
    def audit(self) -> AuditLog:
        return AuditLog(self.database, self.secret("server"))

    @cached_property
    def trail(self) -> AuditTrail:
        """The audit log with its writer, its key and its witness file."""
        return AuditTrail(self.audit, self.settings, self.paths, renewer=self.renewer)

    def secret(self, name: str) -> bytes:
        """One of the project's secrets, made on first use.

        Raises:
            SetupError: it is gone, and something was made under it.
        """
        file = secret_file(self.paths, name)
        if not file.exists():
            self.required_files.require_makeable(name)
        return load_secret(file)

    def close(self) -> None:
        """Write what the audit log has accepted and close the catalog."""
        self.renewer.close()
        if "budget_gate" in self.__dict__:
            self.budget_gate.close()
        if "recent_requests" in self.__dict__:
            self.recent_requests.close()
        if "trail" in self.__dict__:
            self.trail.close()
        if self.__dict__.get("nats") is not None:
            self.__dict__["nats"].close()
        if "database" in self.__dict__:  # Asking for it would make one.
            self.database.close()


@contextmanager
def open_store(root: Path) -> Iterator[Store]:
    """A project's stores, closed at the end.

    Raises:
        NotFoundError: no project here. InvalidInputError: bad settings. SetupError: the directory cannot be written.
    """
    store = Store.open(root)
    try:
        yield store
    finally:
        store.close()


def _place(catalog: CatalogSettings, paths: settings.ProjectPaths) -> Backend:
    if catalog.url is None:
        return backend_of(f"sqlite:///{paths.catalog}")
    return backend_of(catalog.url, catalog_access(catalog, paths.root))
