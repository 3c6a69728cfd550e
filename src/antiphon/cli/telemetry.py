"""``antiphon telemetry``: where metrics, traces and log lines go, and what reads them."""

from __future__ import annotations

from importlib.resources import files

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import show, table
from antiphon.core.errors import UnavailableError

app = typer.Typer(
    name="telemetry", help="Where metrics, traces and log lines go, and what reads them.", no_args_is_help=True
)


@app.command("list")
def list_places(project: Project = HERE, as_json: Json = False) -> None:
    """List where each process of this machine serves /metrics, and where a collector gets which signal."""
    from antiphon.core import settings
    from antiphon.core.process_metrics import addresses
    from antiphon.core.telemetry_export import SIGNALS, endpoint

    _, paths = settings.load(project)
    served, sent = addresses(paths.run), {signal: endpoint(signal) for signal in SIGNALS}

    def text() -> str:
        metrics = table(("process", "metrics"), list(served.items()), "No process serves metrics on this machine.")
        places = [(signal, place or "nowhere") for signal, place in sent.items()]
        return f"{metrics}\n\n{table(('signal', 'sent to'), places)}"

    show({"metrics": served, "collector": sent}, as_json, text)


@app.command()
def check(as_json: Json = False) -> None:
    """Ask the collector of this environment whether it takes each signal. Leaves with 6 when it does not."""
    from antiphon.core.telemetry_export import SIGNALS, problem_with

    found = {signal: problem_with(signal) for signal in SIGNALS}
    show(found, as_json, lambda: table(("signal", "found"), [(one, wrong or "taken") for one, wrong in found.items()]))
    if any(found.values()):
        raise typer.Exit(UnavailableError.exit_code)


@app.command()
def alerts() -> None:
    """Print alert rules for Prometheus (a job named antiphon)."""
    typer.echo(_shipped("alerts.yml"), nl=False)


@app.command()
def dashboard() -> None:
    """Print a dashboard to import into Grafana."""
    typer.echo(_shipped("grafana.json"), nl=False)


def _shipped(name: str) -> str:
    return files("antiphon.operations").joinpath("dashboards", name).read_text(encoding="utf-8")
