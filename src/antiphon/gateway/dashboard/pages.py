"""The frame of all pages, and the pages *Overview* and *Requests*, which change nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, urlencode

import jinja2
import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from antiphon.catalog.receipts import SEEN_ROLES, STAND_IN_ROLES
from antiphon.catalog.receipts import Path as ReceiptPath
from antiphon.core.clock import utc
from antiphon.core.errors import AntiphonError, InvalidInputError, UnauthenticatedError
from antiphon.core.scope import Scope
from antiphon.gateway.admin.predictions import detail
from antiphon.gateway.admin.status import status
from antiphon.gateway.dashboard import session
from antiphon.gateway.dashboard.wording import FILTERS
from antiphon.gateway.denials import Denials
from antiphon.gateway.history import Histories, MetricsHistory
from antiphon.gateway.measurements import GatewayMetrics
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal

HERE = Path(__file__).parent
_PAGE = 40

SAFE = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}

Page = Callable[["Pages", Request, Principal, Scope], Awaitable[Response]]

FORM_TOKEN: ContextVar[str] = ContextVar("form_token", default="")
"""Of the session that a page is made for; every form of it carries it."""


class Series(msgspec.Struct, frozen=True):
    """Columns over ``at`` (seconds since 1970): seconds of latency, share of batch rows done, sequences in the
    engine, seconds of age."""

    at: tuple[float, ...]
    p50: tuple[float | None, ...]
    p99: tuple[float | None, ...]
    batch: tuple[float | None, ...]
    running_online: tuple[int | None, ...]
    running_batch: tuple[int | None, ...]
    freshness: dict[str, tuple[float | None, ...]]


class Pages:
    """Renders the templates."""

    def __init__(self, services: GatewayServices, measurements: GatewayMetrics, histories: Histories) -> None:
        self.services = services
        self.measurements = measurements
        self.histories = histories
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(FILTERS)

    def render(self, template: str, code: int = 200, **names: object) -> Response:
        text = self._templates.get_template(template).render(
            environment=self.services.environment,
            currency=self.services.settings.prices.currency,
            csrf=FORM_TOKEN.get(),
            warning=self.services.warning,
            **names,
        )
        return Response(text, code, headers=SAFE, media_type="text/html")

    async def denied(self, request: Request, error: AntiphonError, who: Principal | None = None) -> None:
        """Keep evidence of a refusal."""
        denials: Denials = request.app.state.denials
        await denials.record(request, error, who)

    async def overview(self, request: Request, who: Principal, scope: Scope) -> Response:
        now = await status(self.services, self.measurements, scope, who)
        return self.render("overview.html", page="overview", who=who, now=now)

    async def figures(self, request: Request, who: Principal, scope: Scope) -> Response:
        now = await status(self.services, self.measurements, scope, who)
        return self.render("figures.html", now=now)

    async def series(self, request: Request, who: Principal, scope: Scope) -> Response:
        return Response(
            msgspec.json.encode(_columns(self.histories.of(scope))), headers=SAFE, media_type="application/json"
        )

    async def requests(self, request: Request, who: Principal, scope: Scope) -> Response:
        application = request.query_params.get("application") or None
        path = _path(request.query_params.get("path"))
        before = _moment(request.query_params.get("before"))
        receipts = await run_in_threadpool(
            self.services.predictions.receipts.list,
            scope,
            application,
            path,
            before,
            _PAGE + 1,
            roles=SEEN_ROLES + STAND_IN_ROLES,
        )
        shown = receipts[:_PAGE]
        older = None
        if len(receipts) > _PAGE:
            chosen = {"application": application, "path": path, "before": shown[-1].created_at.isoformat()}
            older = "/requests?" + urlencode({name: value for name, value in chosen.items() if value})
        return self.render(
            "requests.html",
            page="requests",
            who=who,
            receipts=shown,
            older=older,
            first=before is None,
            application=application,
            path=path,
            applications=await run_in_threadpool(self.services.generation.models, scope),
        )

    async def prediction(self, request: Request, who: Principal, scope: Scope) -> Response:
        found = await run_in_threadpool(detail, self.services, scope, who, str(request.path_params["prediction"]))
        return self.render("prediction.html", page="requests", who=who, found=found, receipt=found.receipt)


def endpoint(page: Page, part: bool = False) -> Callable[[Request], Awaitable[Response]]:
    """A page or a part of one behind the session: who has none is led to the login."""

    async def answer(request: Request) -> Response:
        pages: Pages = request.app.state.pages
        services = pages.services
        try:
            held = await session.current(request, services)
        except UnauthenticatedError as error:
            if request.cookies:
                await pages.denied(request, error)
            if part:
                # htmx follows this header; a redirect would be swapped into the page.
                return Response(status_code=401, headers={**SAFE, "hx-redirect": "/login"})
            target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/login?next={quote(target)}", 303, headers=SAFE)
        except AntiphonError as error:
            return pages.render("error.html", error.http_status, page="", who=None, error=error)
        who = held.principal
        request.state.principal = who
        FORM_TOKEN.set(held.form_token)
        try:
            await run_in_threadpool(services.access.authorize, who, "read", "dashboard/*")
            if request.method not in ("GET", "HEAD"):
                await session.require_form(request, services, held)
            return await page(pages, request, who, services.scope(who))
        except AntiphonError as error:
            await pages.denied(request, error, who)
            return pages.render("error.html", error.http_status, page="", who=who, error=error)

    return answer


def _path(text: str | None) -> ReceiptPath | None:
    if not text:
        return None
    if text not in ("online", "batch"):
        raise InvalidInputError(f"{text!r} is no path.", where="path", next_step="Choose online or batch.")
    return "online" if text == "online" else "batch"


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        return utc(datetime.fromisoformat(text.replace(" ", "+")))
    except ValueError:
        raise InvalidInputError(f"{text!r} is no time.", where="before", next_step="Follow the link again.") from None


def _columns(history: MetricsHistory) -> Series:
    samples = history.samples
    views = sorted({view for sample in samples for view in sample.freshness})
    return Series(
        at=tuple(sample.at.timestamp() for sample in samples),
        p50=tuple(sample.p50 for sample in samples),
        p99=tuple(sample.p99 for sample in samples),
        batch=tuple(sample.batch_done / sample.batch_total if sample.batch_total else None for sample in samples),
        running_online=tuple(sample.running_online for sample in samples),
        running_batch=tuple(sample.running_batch for sample in samples),
        freshness={view: tuple(sample.freshness.get(view) for sample in samples) for view in views},
    )
