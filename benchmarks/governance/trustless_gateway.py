"""A gateway without identity, policy and audit, for ``trust_cost`` to compare with; the benchmark alone starts it.

It is a composition of its own over the same rooms: whoever sends any bearer is one fixed principal, every decision is
one that allows, and receipts are committed without an audit record. All else is wired as ``app`` wires it, over the
same project, catalog and engine, on another port.

    python -m benchmarks.governance.trustless_gateway --project FOLDER --port PORT
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from tests.harness import fakes

from antiphon.app.gateway import server_of
from antiphon.app.wiring import ProcessServices
from antiphon.catalog.releases.evidence import Exposures, ShadowPairs
from antiphon.core import logs
from antiphon.core.clock import SystemClock, parse_duration
from antiphon.core.telemetry_export import Telemetry
from antiphon.gateway.application import create_app
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import Decision, Resource
from antiphon.services.answering import is_plain
from antiphon.services.project.store import Store
from antiphon.serving.admission.limits import AdmissionController
from antiphon.serving.answerer import Answerer
from antiphon.serving.services import Services

ANYBODY = Principal("anybody", "default", "service")
ALLOWED = Decision(True, ("everything",), "0" * 64)


class Anybody:
    """Implements the authenticator, and holds itself where the gateway looks for one."""

    @property
    def bearer(self) -> Anybody:
        return self

    def authenticate(self, text: str) -> Principal:
        return ANYBODY

    def remembered(self, text: str) -> Principal | None:
        return ANYBODY


def decide(principal: Principal, action: str, resource: str | Resource, context: Mapping[str, Any]) -> Decision:
    return ALLOWED


def answerer(wired: ProcessServices) -> Answerer:
    """The answerer of ``services.answering`` without policy, and with bare receipts."""
    store, settings = wired.store, wired.store.settings
    return Answerer(
        Services(
            engine=wired.engine,
            features=wired.features.reader,
            releases=wired.live,
            decide=decide,
            stored=store.answers,
            texts=store.blobs,
            conversations=store.conversations,
            tool_journal=store.tool_journal,
            receipts=store.receipts,
            exposures=Exposures(store.database),
            pairs=ShadowPairs(store.database),
            commit=wired.commit,
            clock=SystemClock(),
            admission=AdmissionController(online=settings.gateway.max_in_flight, batch=settings.gateway.max_in_flight),
            plain=lambda model: is_plain(model, settings.engine.models),
            subject_key=store.secret("subject"),
            online_seconds=parse_duration(settings.gateway.request_timeout).total_seconds(),
        )
    )


async def serve(root: Path, port: int) -> None:
    """Serve until SIGTERM."""
    store = Store.open(root)
    Telemetry("gateway", "gateway", store.paths.logs)
    wired = ProcessServices(store, "gateway")
    wired.answerer = answerer(wired)
    services = fakes.replaced(
        wired.gateway_services(confined=True),
        authorize=lambda principal, action, resource: None,
        identity=Anybody(),  # of what it lacks, the routes that are asked use nothing
        audit=lambda *record, **more: None,
        trail=fakes.UnrecordedTrail(),
    )
    settings = msgspec.structs.replace(store.settings.gateway, port=port)
    try:
        await server_of(create_app(services), settings).serve()
    finally:
        await wired.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    logs.configure()
    uvloop.run(serve(options.project, options.port))


if __name__ == "__main__":
    main()
