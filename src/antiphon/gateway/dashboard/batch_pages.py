"""The pages *Batch*: jobs with their progress, cost and reason to wait, and one job with its rows.

Invariant: no page reads more rows than it shows; counts are of an index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response

from antiphon.batch.orders import WORKFLOW as TABLE_JOB
from antiphon.catalog.batch.jobs import ENDED, BatchJob, JobRow
from antiphon.core.errors import AntiphonError, ForbiddenError, InvalidInputError, NotFoundError
from antiphon.durable.run import Run
from antiphon.gateway.admin.shapes import BatchLine, batch_lines
from antiphon.gateway.dashboard.pages import SAFE, PageCall, moment_of, required_reason
from antiphon.gateway.http.bounds import MOST
from antiphon.operations.cost.amounts import decimal_text
from antiphon.orchestration.conductor.waiting import RunWait

PAGE = 20
ROWS = 50
_SHOWN = {"failed": True, "answered": False, "": None}
_WAITS = "waits: "
"""A run's note begins with it while its rows wait for a budget."""


@dataclass(frozen=True)
class JobLine:
    """A job as it is listed.

    Attributes:
        run: the run that works on it. micros: its cost so far.
        reason: why it does not go on; ``earliest``: when it can at the earliest, as far as is known.
    """

    line: BatchLine
    principal: str
    run: Run | None
    micros: int
    reason: str = ""
    earliest: datetime | None = None


def jobs(call: PageCall) -> Response:
    """Batch jobs, newest first."""
    return call.render("batch.html", page="batch", **_list(call))


def job_rows(call: PageCall) -> Response:
    """The same, to be put into the page."""
    return call.render("batch_rows.html", **_list(call))


def job(call: PageCall) -> Response:
    """One job with its rows, those that failed by themselves if asked for."""
    return _show(call)


def cancel(call: PageCall) -> Response:
    """Ask a job to stop, for a reason; then the page again, with what was wrong if anything was."""
    runs, id = call.services.work.runs, call.path["job"]
    found = call.services.work.tables.get(call.scope, id)
    try:
        reason = required_reason(call.form, ("cancel",))
        run = runs.of_jobs(call.scope, [found]).get(id)
        if run is None:
            raise NotFoundError(
                f"No run works on {id}.", where="job", next_step="A job that a person recorded by hand cannot be ended."
            )
        runs.cancel(call.scope, run.id, call.principal, reason)
    except ForbiddenError:
        raise
    except AntiphonError as error:
        return _show(call, error)
    return RedirectResponse(f"/batch/{id}", 303, headers=SAFE)


def _list(call: PageCall) -> dict[str, Any]:
    before = _place(call.query.get("before", ""))
    found = call.services.work.tables.list(call.scope, PAGE + 1, before)
    shown, more = found[:PAGE], len(found) > PAGE
    here = urlencode({"before": call.query["before"]}) if before else ""
    return {
        "jobs": _lines(call, shown),
        "older": f"/batch?{urlencode({'before': _named(shown[-1])})}" if more else None,
        "newest": before is not None,
        "part": f"/dashboard/batch?{here}" if here else "/dashboard/batch",
        "amount": decimal_text,
    }


def _lines(call: PageCall, found: Sequence[BatchJob]) -> list[JobLine]:
    runs, scope = call.services.work.runs, call.scope
    of_jobs = runs.of_jobs(scope, found)
    waits: Mapping[str, RunWait] = runs.waits(scope, of_jobs.values())
    costs = call.services.work.costs(scope).sums_of_work(
        [name for one in found for name in (one.id, *_work(of_jobs.get(one.id)))]
    )
    lines = []
    for one, line in zip(found, batch_lines(call.services, scope, found), strict=True):
        run = of_jobs.get(one.id)
        micros = sum(costs[name] for name in (one.id, *_work(run)))
        reason, earliest = _waiting(one, run, waits)
        lines.append(JobLine(line, one.principal, run, micros, reason, earliest))
    return lines


def _work(run: Run | None) -> tuple[str, ...]:
    return () if run is None else (run.id,)


def _waiting(job: BatchJob, run: Run | None, waits: Mapping[str, RunWait]) -> tuple[str, datetime | None]:
    if job.status in ENDED or run is None:
        return "", None
    wait = waits.get(run.id)
    if wait is not None:
        return wait.reason, wait.earliest
    if run.paused_by is not None:
        return f"paused by {run.paused_by}", None
    return (run.note.removeprefix(_WAITS), None) if run.note.startswith(_WAITS) else ("", None)


def _show(call: PageCall, problem: AntiphonError | None = None) -> Response:
    tables, id = call.services.work.tables, call.path["job"]
    found = tables.get(call.scope, id)
    (line,) = _lines(call, [found])
    shown, after = call.query.get("rows", ""), _line_number(call.query.get("after", ""))
    if shown not in _SHOWN:
        raise InvalidInputError(f"There are no rows {shown!r}.", where="rows", next_step="Choose failed or answered.")
    rows: Sequence[JobRow] = ()
    more, refusal = False, ""
    try:
        listed = tables.rows(call.scope, id, after, ROWS, _SHOWN[shown])
        rows = call.services.access.records.readable_rows(call.scope, call.principal, found, listed) if listed else ()
        more = len(listed) == ROWS
    except (ForbiddenError, NotFoundError) as error:  # Its counts may be read by whoever reads the dashboard.
        refusal, listed = error.what, ()
    run = line.run
    return call.render(
        "batch_job.html",
        problem,
        page="batch",
        job=line,
        kept=found,
        rows=[(row, *_outcome(row)) for row in rows],
        shown=shown,
        refusal=refusal,
        older=f"/batch/{id}?{urlencode({'rows': shown, 'after': listed[-1].line})}" if more else None,
        first=after >= 0,
        may=run is not None and line.line.status not in ENDED and call.services.work.runs.may_move(run, call.principal),
        reason=call.form.get("reason", ""),
        amount=decimal_text,
        table=run is not None and run.workflow == TABLE_JOB,
    )


def _outcome(row: JobRow) -> tuple[str, str]:
    """The prediction that answered a row, and the error or the text that it has."""
    payload = row.payload
    if "response" in payload:  # A line of a batch of OpenAI's API.
        response = payload["response"] or {}
        body = response.get("body") or {}
        said = body.get("error") or payload["error"] or {}
        text = str(said.get("message", "")) if isinstance(said, dict) else str(said)
        extra = body.get("antiphon")
        prediction = extra.get("prediction", "") if isinstance(extra, dict) else ""
        return str(prediction or ""), text
    return str(payload.get("answer_prediction") or ""), str(
        payload.get("answer_error") or payload.get("answer_text") or ""
    )


def _named(job: BatchJob) -> str:
    return f"{job.created_at.isoformat()}~{job.id}"


def _place(text: str) -> tuple[datetime, str] | None:
    at, _, job = text.partition("~")
    moment = moment_of(at)
    return None if moment is None else (moment, job)


def _line_number(text: str) -> int:
    if text and (not text.isdecimal() or int(text[:20]) > MOST):
        raise InvalidInputError("`after` names no row.", where="after", next_step="Follow the link again.")
    return int(text) if text else -1
