"""The frame of all pages, and the pages *Overview* and *Lineage*, which change nothing."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from antiphon.catalog.measurements import PLATFORM
from antiphon.core.clock import utc
from antiphon.core.errors import AntiphonError, InvalidInputError, UnauthenticatedError
from antiphon.core.scope import Scope
from antiphon.features.offline.lineage import Lineage
from antiphon.gateway.admin.feature_watch import lineage_of_prediction
from antiphon.gateway.admin.shapes import RunLine, read_all
from antiphon.gateway.admin.status import status
from antiphon.gateway.dashboard import session
from antiphon.gateway.dashboard.live import ChangeStream, LiveChanges
from antiphon.gateway.dashboard.timed_orders import engine_drains
from antiphon.gateway.dashboard.wording import FILTERS
from antiphon.gateway.denials import Denials
from antiphon.gateway.http import incoming
from antiphon.gateway.http.responses import JsonResponse
from antiphon.gateway.operation import OperationCall
from antiphon.gateway.services import GatewayServices
from antiphon.operations.history.window import HistoryWindow, Statistic

HERE = Path(__file__).parent
_LINEAGE_ROWS = 30
_JOBS = _RUNS = 10

SPANS = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "1y": timedelta(days=365),
}
_USUAL_SPAN = "1h"
_SHOWN = {
    "antiphon_answer_seconds", "antiphon_answers", "antiphon_requests", "antiphon_engine_requests",
    "antiphon_batch_rows_waiting", "antiphon_feature_age_seconds",
}  # fmt: skip

SAFE = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}
"""Permission for what a page may load, beside the headers of every response."""


class Pages:
    """Renders the templates."""

    def __init__(self, services: GatewayServices) -> None:
        self.services = services
        self.live = LiveChanges(
            {
                "overview": self._overview_stamp,
                "requests": self._requests_stamp,
                "runs": self._runs_stamp,
                "batch": self._batch_stamp,
                "incidents": self._incidents_stamp,
                "notifications": lambda scope: services.work.notifications(scope).stamp(),
            }
        )
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
            warning=self.services.warning,
            **names,
        )
        return Response(text, code, headers=SAFE, media_type="text/html")

    def _overview_stamp(self, scope: Scope) -> object:
        services = self.services
        publication = services.features.publications.current(scope)
        return (
            self._requests_stamp(scope),
            self._runs_stamp(scope),
            services.work.tables.list(scope, _JOBS),
            None if publication is None else publication.number,
            [(one.name, one.state) for one in services.health.processes()],
            self._incidents_stamp(scope),
            [one.drain for one in services.work.engines.list()],
        )

    def _incidents_stamp(self, scope: Scope) -> object:
        work = self.services.work
        incidents = [*work.incidents(scope).list(all=False), *work.incidents(scope).list(limit=1)]
        runs = work.playbooks(scope).runs(limit=_RUNS)
        return [(one.id, one.updated_at) for one in incidents], [(one.id, one.updated_at) for one in runs]

    def _requests_stamp(self, scope: Scope) -> object:
        return [one.prediction for one in self.services.predictions.receipts.list(scope, limit=1)]

    def _batch_stamp(self, scope: Scope) -> object:
        return self._runs_stamp(scope), self.services.work.tables.list(scope, _JOBS)

    def _runs_stamp(self, scope: Scope) -> object:
        return read_all(self.services.work.runs.list(scope), RunLine)


@dataclass(frozen=True, kw_only=True)
class PageCall(OperationCall):
    """One call of a page, within a session.

    Attributes:
        query: of the address; ``form``: the first value of each field, without blanks around it.
        form_token: of the session; every form of the page carries it.
        holds: raises once the session, or the right to read the dashboard, has ended.
    """

    pages: Pages
    query: QueryParams
    form: Mapping[str, str]
    form_token: str
    holds: Callable[[], Awaitable[object]]

    def render(self, template: str, problem: AntiphonError | None = None, **names: object) -> Response:
        """The page; where it shows a problem, with that problem's status."""
        code, who, csrf = 200 if problem is None else problem.http_status, self.principal, self.form_token
        return self.pages.render(template, code, who=who, csrf=csrf, problem=problem, **names)


async def overview(call: PageCall) -> Response:
    return await overview_page(call)


async def overview_page(call: PageCall, problem: AntiphonError | None = None) -> Response:
    """The page, with what was wrong with the last button that was pressed on it."""
    now = await status(call.services, call.measurements, call.scope, call.principal)
    span, until = _span(call.query)
    end, length = until or now.at, SPANS[span]
    later = (
        None if until is None else _overview(span, until + length if until + length < now.at - length / 20 else None)
    )
    return call.render(
        "overview.html", problem, page="overview", now=now, drains=await run_in_threadpool(engine_drains, call),
        spans=[(name, _overview(name, until)) for name in SPANS],
        chosen=span, earlier=_overview(span, end - length), later=later,
    )  # fmt: skip


async def figures(call: PageCall) -> Response:
    now = await status(call.services, call.measurements, call.scope, call.principal)
    return call.render("figures.html", now=now, drains=await run_in_threadpool(engine_drains, call))


async def changes(call: PageCall) -> ChangeStream:
    """The stream that tells of changes of a topic."""
    return call.pages.live.stream(call.scope, call.query.get("topic", ""), call.principal.id, call.holds)


def series(call: PageCall) -> Response:
    """Columns over ``at`` (seconds since 1970) of a span: seconds of latency, answers a second, sequences in the
    engines, rows that wait, seconds of age."""
    span, until = _span(call.query)
    history, tenant = call.services.metric_history, call.scope.tenant
    own = history.window(tenant, SPANS[span], until, _SHOWN)
    engines = history.window(PLATFORM, SPANS[span], until, _SHOWN)
    online = {"path": "online"}

    def line(window: HistoryWindow, measure: str, statistic: Statistic, **where: str | Collection[str]) -> list[Any]:
        lines = window.columns(measure, statistic, where=where).lines
        return list(lines[0].values) if lines else [None] * len(window.at)

    columns: dict[str, Any] = {
        "at": [start.timestamp() for start in own.at],
        "period": own.period.total_seconds(),
        "until": own.until.timestamp(),
        "p50": line(own, "antiphon_answer_seconds", "p50", **online),
        "p99": line(own, "antiphon_answer_seconds", "p99", **online),
        "online": line(own, "antiphon_answers", "rate", **online),
        "batch": line(own, "antiphon_answers", "rate", path="batch"),
        "failed": line(own, "antiphon_requests", "rate", fault="platform"),
        "running_online": line(engines, "antiphon_engine_requests", "mean", state="running_online"),
        "running_batch": line(engines, "antiphon_engine_requests", "mean", state="running_batch"),
        "rows_waiting": line(own, "antiphon_batch_rows_waiting", "mean"),
        "freshness": {
            one.labels["view"]: list(one.values)
            for one in own.columns("antiphon_feature_age_seconds", "mean", ("view",)).lines
        },
    }
    return JsonResponse(columns, headers=SAFE)


def _span(query: Mapping[str, str]) -> tuple[str, datetime | None]:
    span = query.get("span") or _USUAL_SPAN
    if span not in SPANS:
        raise InvalidInputError(f"{span!r} is no span.", where="span", next_step=f"Choose one of {', '.join(SPANS)}.")
    return span, moment_of(query.get("until"))


def _overview(span: str, until: datetime | None) -> str:
    """The address of the overview of a span that ends at a moment, or now and goes on."""
    return "/?" + urlencode({"span": span} | ({} if until is None else {"until": until.isoformat()}))


def lineage(call: PageCall) -> Response:
    """Source rows that made one feature of a prediction, or all, and whether they make them again; those that an
    on-demand feature read follow it."""
    prediction, feature = call.path["prediction"], call.query.get("feature") or None
    shown: list[Lineage] = []
    for one in lineage_of_prediction(call, prediction, feature, _LINEAGE_ROWS):
        shown += [one.placeless(), *(read.placeless() for read in one.reads if feature is not None)]
    return call.render("lineage.html", page="requests", prediction=prediction, shown=shown, feature=feature)


def endpoint(page: Callable[[PageCall], Any], part: bool = False) -> Callable[[Request], Awaitable[Response]]:
    """A page or a part of one behind the session: who has none is led to the login. A plain function runs in a
    thread."""

    async def answer(request: Request) -> Any:
        pages: Pages = request.app.state.pages
        denials: Denials = request.app.state.denials
        services = pages.services
        try:
            held = await session.current(request, services)
        except UnauthenticatedError as error:
            if request.cookies:
                await denials.record(request, error)
            if part:
                # htmx follows this header; a redirect would be swapped into the page.
                return Response(status_code=401, headers={**SAFE, "hx-redirect": "/login"})
            target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/login?next={quote(target)}", 303, headers=SAFE)
        except AntiphonError as error:
            return pages.render("error.html", error.http_status, page="", who=None, csrf="", error=error)
        who = request.state.principal = held.principal

        async def holds() -> None:
            again = await session.current(request, services)
            await run_in_threadpool(services.access.authorize, again.principal, "read", "dashboard/*")

        try:
            await run_in_threadpool(services.access.authorize, who, "read", "dashboard/*")
            form: dict[str, str] = {}
            if request.method not in ("GET", "HEAD"):
                await session.require_form(request, services, held)
                form = session.form_of(await incoming.body(request, session.MOST_FORM_BYTES))
            call = PageCall(
                services=services,
                measurements=request.app.state.measurements,
                principal=who,
                scope=services.scope(who),
                path={name: str(value) for name, value in request.path_params.items()},
                pages=pages,
                query=request.query_params,
                form={name: value.strip() for name, value in form.items()},
                form_token=held.form_token,
                holds=holds,
            )
            return await (page(call) if inspect.iscoroutinefunction(page) else run_in_threadpool(page, call))
        except AntiphonError as error:
            await denials.record(request, error)
            token = held.form_token
            return pages.render("error.html", error.http_status, page="", who=who, csrf=token, error=error)

    return answer


def required_reason(form: Mapping[str, str], acts: Collection[str]) -> str:
    """The reason that a form gives for one of these acts.

    Raises:
        InvalidInputError: it is no such act, or has no reason.
    """
    selected, reason = form.get("act", ""), form.get("reason", "")
    if selected not in acts:
        raise InvalidInputError(f"{selected!r} is nothing to do.", where="act", next_step="Press one of the buttons.")
    if not reason:
        raise InvalidInputError(
            "There is no reason.", where="reason", next_step="Say why: it is kept with what was done."
        )
    return reason


def moment_of(text: str | None) -> datetime | None:
    """The moment that a link names; raises ``InvalidInputError`` for one that is none."""
    if not text:
        return None
    try:
        return utc(datetime.fromisoformat(text.replace(" ", "+")))
    except ValueError:
        raise InvalidInputError(f"{text!r} is no time.", where="before", next_step="Follow the link again.") from None
