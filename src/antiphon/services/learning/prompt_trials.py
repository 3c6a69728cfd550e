"""Trials and regression runs of one project, wired: what asks the engine on behalf of the workbench."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from antiphon.catalog.learning.regressions import RegressionRun
from antiphon.catalog.learning.trials import Trial
from antiphon.catalog.releases.releases import Release
from antiphon.learning.evaluation.asking import EvaluatedReleases, Progress
from antiphon.learning.workbench.regressions import RegressionRunner
from antiphon.learning.workbench.trials import SampleQuery, TrialRunner
from antiphon.services.answering import serving_services
from antiphon.services.learning.regressions import newest_version
from antiphon.services.learning.training import LearningPlatform
from antiphon.serving.services import Services


def trial_runner(platform: LearningPlatform) -> TrialRunner:
    """Tries releases and drafts of a project through its engine."""
    store = platform.store
    return TrialRunner(
        services=lambda releases: _services(platform, releases),
        releases=store.releases,
        receipts=store.receipts,
        texts=store.blobs,
        trials=store.trials,
        evaluations=store.evaluations,
        clock=store.database.clock,
        concurrency=store.settings.gateway.batch_concurrency,
    )


def regression_runner(platform: LearningPlatform) -> RegressionRunner:
    """Runs releases of a project on regression sets through its engine."""
    store = platform.store
    return RegressionRunner(
        services=lambda releases: _services(platform, releases),
        texts=store.blobs,
        sets=store.regressions,
        evaluations=store.evaluations,
        clock=store.database.clock,
        concurrency=store.settings.gateway.batch_concurrency,
    )


async def try_release(
    platform: LearningPlatform, release: Release, query: SampleQuery, *, author: str, progress: Progress | None = None
) -> Trial:
    """Try a release or draft once the engine serves its model; raises as ``TrialRunner.run``, and ``UnavailableError``
    while it does not."""
    await platform.serve(release)
    return await trial_runner(platform).run(release, query, author=author, progress=progress)


async def run_gated_sets(
    platform: LearningPlatform, release: Release, *, author: str, progress: Progress | None = None
) -> Sequence[RegressionRun]:
    """Run the sets that a release's gates name and that it was not run on in their present version; raises as
    ``RegressionRunner.run``."""
    store, made = platform.store, []
    for name in release.bundle.application.gates.regressions:
        version = await asyncio.to_thread(newest_version, store, release.scope, name)
        if version is None:
            continue  # the gates say so
        known = await asyncio.to_thread(store.regressions.runs, release.scope, name, release.id, version.version)
        if not any(one.split is None for one in known):
            await platform.serve(release)
            made.append(await regression_runner(platform).run(release, version, author=author, progress=progress))
    return made


def _services(platform: LearningPlatform, releases: EvaluatedReleases) -> Services:
    return serving_services(platform.store, platform.engine, platform.commit, releases, platform.features)
