"""What a lane counts."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(slots=True)
class Counters:
    """What a lane did since it started; read by other threads, written by the step loop's alone."""

    steps: int = 0
    generated_online: int = 0
    generated_batch: int = 0
    prefilled_tokens: int = 0
    reused_prefix_tokens: int = 0
    interrupted_calls: int = 0
    interrupted_seconds: float = 0.0
    call_seconds: float = 0.0
    busy_seconds: float = 0.0
    embedded_texts: int = 0
    embedded_tokens: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(*(one + another for one, another in zip(astuple(self), astuple(other), strict=True)))
