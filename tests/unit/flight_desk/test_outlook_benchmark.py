"""The share of full retraining's gain: arithmetic on forecasts whose AUC is known."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.flight_desk import outlook

LATE = np.array([0.0, 1.0] * 50)


def ranked(right: int) -> np.ndarray:
    """Forecasts of 100 flights of which the first ``right`` are told apart and the others are not."""
    forecast = np.full(100, 0.5)
    forecast[:right] = np.where(LATE[:right] > 0, 0.9, 0.1)
    return forecast


def test_nothing_gained_and_everything_gained() -> None:
    forecasts = {outlook.FIRST: ranked(20), outlook.DELTA: ranked(20), outlook.FULL: ranked(80)}
    assert outlook.share_of_gain(forecasts, LATE, seed=1)["value"] == 0.0
    forecasts[outlook.DELTA] = forecasts[outlook.FULL]
    assert outlook.share_of_gain(forecasts, LATE, seed=1)["value"] == 1.0


def test_a_part_of_the_gain_has_an_interval_around_it() -> None:
    forecasts = {outlook.FIRST: ranked(20), outlook.DELTA: ranked(50), outlook.FULL: ranked(80)}
    share = outlook.share_of_gain(forecasts, LATE, seed=1)
    assert share["low"] < share["value"] < share["high"]
    assert share["resamples_with_a_gain"] == 1.0


def test_without_a_gain_of_the_full_retraining_there_is_no_share() -> None:
    forecasts = {outlook.FIRST: ranked(80), outlook.DELTA: ranked(50), outlook.FULL: ranked(20)}
    share = outlook.share_of_gain(forecasts, LATE, seed=1)
    assert share["value"] is None
    assert share["resamples_with_a_gain"] == pytest.approx(0.0, abs=0.01)
