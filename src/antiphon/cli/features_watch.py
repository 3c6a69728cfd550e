"""Commands that watch over served features, and a hand on them."""

from __future__ import annotations

import typer

from antiphon.cli import features_lineage, features_rollback, features_skew


def add_to(app: typer.Typer) -> None:
    """Make them commands of ``antiphon features``."""
    app.command("skew")(features_skew.skew)
    app.command("lineage")(features_lineage.lineage)
    app.command("rollback")(features_rollback.rollback)
    app.command("hold")(features_rollback.hold)
    app.command("resume")(features_rollback.resume)
