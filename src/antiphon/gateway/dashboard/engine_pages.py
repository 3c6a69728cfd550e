"""The button of *Overview* that gives a drained engine requests again."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from antiphon.core.errors import AntiphonError, ForbiddenError
from antiphon.gateway.admin.engines import engines_of
from antiphon.gateway.dashboard.pages import SAFE, PageCall, overview_page, required_reason


async def resume(call: PageCall) -> Response:
    """End a drain, for a reason; then the page again, with what was wrong if anything was."""
    try:
        await run_in_threadpool(_resume, call)
    except ForbiddenError:
        raise
    except AntiphonError as error:
        return await overview_page(call, error)
    return RedirectResponse("/", 303, headers=SAFE)


def _resume(call: PageCall) -> None:
    engine, found = call.form.get("engine", ""), engines_of(call)
    call.services.access.authorize(call.principal, "administer", f"process/{engine}")
    found.resume(call.principal.id, engine, required_reason(call.form, ("resume",)))
