"""What an answer is made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from antiphon.core.clock import Clock
from antiphon.core.scope import Scope
from antiphon.serving.admission.limits import Admission
from antiphon.serving.fallback.engines import Breaking
from antiphon.serving.ports import (
    Commit,
    Decide,
    Exposures,
    FeatureReader,
    GenerationEngine,
    LiveReleases,
    Receipts,
    Remedies,
    ShadowPairs,
    StoredAnswers,
    Texts,
)
from antiphon.serving.shadow import Mirroring


class Services(msgspec.Struct, frozen=True):
    """What an answer is made with; ``app`` fills it in.

    ``online_seconds`` is how long an online answer may take to generate, ``flex_seconds`` one that takes what others
    leave; a batch row waits as long as it must.
    ``checkpoint`` is the newest signed one of the audit log, which receipts carry. ``plain`` says whether a model that
    the engine serves may be asked by its name alone: one that was tuned here is a tenant's and answers for a purpose.
    ``remedies`` stand in for stale values.
    ``features_far`` says that reading features waits for another machine.
    ``standbys`` are engines that an application may name in its fallback, by name; ``plain_fallback`` is the fallback
    of plain models; ``breaking`` says when an engine is given up.
    """

    engine: GenerationEngine
    features: Callable[[Scope], FeatureReader]
    releases: LiveReleases
    decide: Decide
    stored: StoredAnswers
    texts: Texts
    receipts: Receipts
    exposures: Exposures
    pairs: ShadowPairs
    commit: Commit
    clock: Clock
    admission: Admission
    subject_key: bytes
    online_seconds: float | None = None
    flex_seconds: float | None = None
    mirroring: Mirroring = Mirroring()
    checkpoint: Callable[[Scope], str | None] = lambda scope: None
    plain: Callable[[str], bool] = lambda model: True
    features_far: bool = False
    standbys: Mapping[str, GenerationEngine] = {}
    plain_fallback: tuple[str, ...] = ()
    breaking: Breaking = Breaking()
    remedies: Remedies | None = None
