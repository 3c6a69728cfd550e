"""Every route of the dashboard."""

from __future__ import annotations

from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from antiphon.gateway.dashboard import (
    asset_pages,
    audit_pages,
    change_pages,
    conversation_pages,
    cost_pages,
    doors,
    feature_pages,
    learning_pages,
    lineage_pages,
    pages,
    policy_pages,
    release_pages,
    schedule_pages,
    skew_pages,
    workbench_pages,
)
from antiphon.gateway.dashboard.pages import HERE, endpoint


def routes() -> list[BaseRoute]:
    """Pages, the parts that refresh them, and static files."""
    return [
        Route("/", endpoint(pages.overview), methods=["GET"]),
        Route("/requests", endpoint(pages.requests), methods=["GET"]),
        Route("/requests/{prediction}", endpoint(workbench_pages.annotated_prediction), methods=["GET"]),
        Route("/requests/{prediction}/annotations", endpoint(workbench_pages.annotate), methods=["POST"]),
        Route("/requests/{prediction}/case", endpoint(workbench_pages.case_form), methods=["GET"]),
        Route("/requests/{prediction}/case", endpoint(workbench_pages.add_case), methods=["POST"]),
        Route("/requests/{prediction}/lineage", endpoint(pages.lineage), methods=["GET"]),
        Route("/conversations", endpoint(conversation_pages.conversations), methods=["GET"]),
        Route("/conversations/{conversation}", endpoint(conversation_pages.conversation), methods=["GET"]),
        Route("/releases", endpoint(release_pages.releases), methods=["GET"]),
        Route("/releases", endpoint(release_pages.act), methods=["POST"]),
        Route("/changes", endpoint(change_pages.changes), methods=["GET"]),
        Route("/changes.atom", endpoint(change_pages.changes_feed), methods=["GET"]),
        Route("/public/changes/{application}.atom", change_pages.public_changes_feed, methods=["GET"]),
        Route("/public/changes/{application}.json", change_pages.public_changes_json, methods=["GET"]),
        Route("/public/changes/{application}", change_pages.public_changes, methods=["GET"]),
        Route("/releases/diff", endpoint(release_pages.diff), methods=["GET"]),
        Route("/prompts", endpoint(workbench_pages.prompts), methods=["GET"]),
        Route("/prompts/{version}", endpoint(workbench_pages.prompt), methods=["GET"]),
        Route("/prompts/{version}", endpoint(workbench_pages.try_prompt), methods=["POST"]),
        Route("/trials/{trial}", endpoint(workbench_pages.trial), methods=["GET"]),
        Route("/trials/{trial}", endpoint(workbench_pages.prefer), methods=["POST"]),
        Route("/regressions/{set}", endpoint(workbench_pages.regression_set), methods=["GET"]),
        Route("/features", endpoint(feature_pages.views), methods=["GET"]),
        Route("/features/{view}", endpoint(feature_pages.view), methods=["GET"]),
        Route("/features/{view}", endpoint(feature_pages.act), methods=["POST"]),
        Route("/features/{view}/diff", endpoint(feature_pages.diff), methods=["GET"]),
        Route("/skew", endpoint(skew_pages.skew), methods=["GET"]),
        Route("/skew", endpoint(skew_pages.measure), methods=["POST"]),
        Route("/models", endpoint(learning_pages.models), methods=["GET"]),
        Route("/models/compare", endpoint(learning_pages.compare), methods=["GET"]),
        Route("/models/{model}", endpoint(learning_pages.model), methods=["GET"]),
        Route("/models/{model}/card", endpoint(learning_pages.card), methods=["GET"]),
        Route("/outcomes", endpoint(learning_pages.outcomes), methods=["GET"]),
        Route("/audit", endpoint(audit_pages.audit), methods=["GET"]),
        Route("/tenants", endpoint(audit_pages.tenants), methods=["GET"]),
        Route("/policy", endpoint(policy_pages.policy), methods=["GET"]),
        Route("/policy", endpoint(policy_pages.act), methods=["POST"]),
        Route("/lineage", endpoint(lineage_pages.lineage), methods=["GET"]),
        Route("/runs", endpoint(learning_pages.runs), methods=["GET"]),
        Route("/runs", endpoint(learning_pages.move_run), methods=["POST"]),
        Route("/assets", endpoint(asset_pages.assets), methods=["GET"]),
        Route("/cost", endpoint(cost_pages.cost), methods=["GET"]),
        Route("/schedules", endpoint(schedule_pages.schedules), methods=["GET"]),
        Route("/schedules", endpoint(schedule_pages.act), methods=["POST"]),
        Route("/dashboard/figures", endpoint(pages.figures, part=True), methods=["GET"]),
        Route("/dashboard/series", endpoint(pages.series, part=True), methods=["GET"]),
        Route("/dashboard/rollout", endpoint(release_pages.rollout, part=True), methods=["GET"]),
        Route("/dashboard/runs", endpoint(learning_pages.run_rows, part=True), methods=["GET"]),
        Route("/login", doors.login_form, methods=["GET"]),
        Route("/login", doors.login, methods=["POST"]),
        Route("/logout", doors.logout, methods=["POST"]),
        Mount("/static", StaticFiles(directory=HERE / "static"), name="static"),
    ]
