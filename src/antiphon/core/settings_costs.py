"""Sections of ``antiphon.toml`` about what work costs: prices, energy and the bounds of budgets."""

from __future__ import annotations

from typing import Annotated

import msgspec

from antiphon.core.settings_sections import Duration, Section

Figure = Annotated[float, msgspec.Meta(ge=0.0, le=1_000_000.0)]
Bounds = tuple[Figure, Figure]
"""The lowest and the highest figure of what is not known better."""


class TokenPriceSettings(Section, frozen=True):
    """Prices of a model's tokens."""

    prompt_token: float = 0.0
    cached_prompt_token: float = 0.0
    completion_token: float = 0.0


class BudgetSettings(Section, frozen=True):
    """Bounds of what is reserved of budgets.

    Attributes:
        token_seconds: engine time that a token takes at most, of which the worst case of a request is made.
        patience: how long an online request waits for answers under way to be charged less than was reserved for them.
    """

    token_seconds: Annotated[float, msgspec.Meta(ge=0.0, le=3_600.0)] = 0.1
    patience: Duration = "5s"


class PriceSettings(Section, frozen=True):
    """Prices of units, in ``currency``: ISO 4217. Of models in ``models`` tokens have prices of their own.

    Attributes:
        worker_second: of a worker's time for a run. training_processor_second: of processor time of a training, beside
            the worker's time. gpu_second: of a GPU of an engine that declares them, beside the engine's time.
        memory_gib_hour: of a GiB of resident memory of engines and trainings for an hour.
        gib_month: of a stored GiB for 30 days.
    """

    currency: str = "USD"
    engine_second: float = 0.00004
    prompt_token: float = 0.0
    cached_prompt_token: float = 0.0
    completion_token: float = 0.0
    worker_second: float = 0.0
    training_processor_second: float = 0.0
    gpu_second: float = 0.0
    memory_gib_hour: float = 0.0
    gib_month: float = 0.0
    models: dict[str, TokenPriceSettings] = msgspec.field(default_factory=dict)


class EnergySettings(Section, frozen=True):
    """Power as its lowest and highest figure, from which energy is estimated. Where nothing is declared none is told.

    Attributes:
        core_watts: of a processor core that works. engine_cores: that an engine has at work while it computes.
        idle_watts: of an engine that is up and has nothing to do. gpu_watts: of a GPU that works.
        source: where these figures are from, as it is told beside every estimate.
    """

    core_watts: Bounds | None = None
    engine_cores: Bounds | None = None
    idle_watts: Bounds | None = None
    gpu_watts: Bounds | None = None
    source: str = "declared in antiphon.toml"

    def __post_init__(self) -> None:
        for name in ("core_watts", "engine_cores", "idle_watts", "gpu_watts"):
            bounds: Bounds | None = getattr(self, name)
            if bounds is not None and bounds[0] > bounds[1]:
                raise ValueError(f"{name} names its lowest figure first, then its highest")
