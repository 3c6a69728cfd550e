"""The pages *Chaos*: experiments with what keeps them from being run, the runs so far, and the report of one.

They break nothing: experiments are run at the terminal, by whoever sees what happens there.
"""

from __future__ import annotations

from starlette.responses import Response

from antiphon.core.errors import ForbiddenError
from antiphon.gateway.dashboard.pages import PageCall
from antiphon.operations.chaos.report import fault_cells, probe_cells, question_sentence, summary_cells

RUNS = 20


def chaos(call: PageCall) -> Response:
    """Experiments that are shipped and the project's own, and the last runs."""
    _require_own(call)
    found = call.services.work.chaos
    return call.render("chaos.html", page="chaos", experiments=found.list(), runs=found.reports(RUNS))


def report(call: PageCall) -> Response:
    """One run: of each experiment what held, for how long it did not, per probe, and what was done."""
    _require_own(call)
    found = call.services.work.chaos.report(call.path["run"])
    return call.render(
        "chaos_run.html",
        page="chaos",
        run=found,
        summaries=[summary_cells(one) for one in found.experiments],
        faults={one.experiment: [fault_cells(fault) for fault in one.faults] for one in found.experiments},
        probes={
            one.experiment: [] if one.observed is None else [probe_cells(probe, one.observed) for probe in one.probes]
            for one in found.experiments
        },
        question=question_sentence,
    )


def _require_own(call: PageCall) -> None:
    """Raises ``ForbiddenError`` for who may not run experiments: they tell of processes that all tenants share."""
    call.services.access.authorize(call.principal, "administer", "chaos/*")
    if call.scope.tenant != call.services.settings.project.tenant:
        raise ForbiddenError(
            "Experiments are of the tenant that runs the installation.",
            where="chaos",
            next_step="Ask its administrators.",
        )
