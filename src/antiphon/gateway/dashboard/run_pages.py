"""The page of one run: its steps and attempts with their times, why it waits, what it read and made, and what a person
may do with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.responses import RedirectResponse, Response

from antiphon.batch.request_batches import WORKFLOW as OPENAI_BATCH
from antiphon.core.errors import AntiphonError, ForbiddenError, InvalidInputError
from antiphon.durable.run import ENDED, Run
from antiphon.gateway.dashboard.pages import SAFE, PageCall, required_reason
from antiphon.operations.cost.amounts import decimal_text

STEPS = 200
"""The last so many steps of a run are shown."""


def run(call: PageCall) -> Response:
    """One run."""
    return _show(call)


def act(call: PageCall) -> Response:
    """Retry, skip a step, pause, resume or cancel, as the command line does; then the run's page, with what was wrong
    if anything was."""
    runs, id, form, by = call.services.work.runs, call.path["run"], call.form, call.principal
    moved: Run | None = None
    try:
        if form.get("act") == "resume":
            runs.resume(call.scope, id, by)
        else:
            reason = required_reason(form, ("retry", "skip", "pause", "cancel"))
            match form["act"]:
                case "retry":
                    moved = runs.retry(call.scope, id, by, reason, form.get("from_step", ""))
                case "skip":
                    runs.skip(call.scope, id, form.get("step", ""), _result(form.get("result", "")), by, reason)
                case "pause":
                    runs.pause(call.scope, id, by, reason)
                case _:
                    runs.cancel(call.scope, id, by, reason)
    except ForbiddenError:
        raise
    except AntiphonError as error:
        return _show(call, error)
    return RedirectResponse(f"/runs/{quote(id if moved is None else moved.id, safe='')}", 303, headers=SAFE)


def _result(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidInputError(
            f"The result is no JSON: {error}.",
            where="result",
            next_step='Write a number, a text in quotes, {"name": …} or null.',
        ) from None


def _show(call: PageCall, problem: AntiphonError | None = None) -> Response:
    runs, id, scope = call.services.work.runs, call.path["run"], call.scope
    found: Run = runs.get(scope, id)
    steps, total = runs.steps(scope, id, STEPS)
    job = str(found.arguments.get("job") or found.arguments.get("batch") or "")
    micros = call.services.work.costs(scope).sums_of_work([id, *([job] if job else [])])
    return call.render(
        "run.html",
        problem,
        page="runs",
        run=found,
        wait=runs.waits(scope, [found]).get(id),
        steps=steps,
        total=total,
        attempts=runs.attempts(scope, id),
        rollback=None if found.rollback is None else runs.rollback(scope, id),
        job=job,
        micros=sum(micros.values()),
        amount=decimal_text,
        assets=_assets(call, found),
        inputs=(found.arguments.get("part") or {}).get("inputs", {}),
        acts=_acts(found) if runs.may_move(found, call.principal) else (),
        form={"act": "", "reason": "", "result": "", **call.form},
    )


def _assets(call: PageCall, found: Run) -> tuple[Sequence[str], Sequence[str]]:
    """Names of what an ended run read and made."""
    if found.status not in ENDED:
        return (), ()
    events = call.services.work.run_lineage.events(call.scope, found.id)
    if not events:
        return (), ()
    last = events[-1].placeless()
    return [one.label for one in last.inputs], [one.label for one in last.outputs]


def _acts(found: Run) -> tuple[str, ...]:
    """Manual actions that a run in its state takes."""
    if found.status == "failed":
        # A batch that failed has ended with its files.
        return () if found.workflow == OPENAI_BATCH else ("retry", *(["skip"] if found.under_way else []))
    if found.status in ENDED:
        return ()
    cancels = () if found.cancel_requested or found.is_rolled_back else ("cancel",)
    return ("resume" if found.paused_by is not None else "pause", *cancels)
