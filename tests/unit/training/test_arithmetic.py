from __future__ import annotations

import os
from pathlib import Path

import pytest

from antiphon.core.errors import SetupError
from antiphon.training.arithmetic import (
    DtypeSetting,
    Speed,
    choose,
    machine,
    speeds_of_this_machine,
)
from antiphon.training.recipe import Arithmetic, require_libraries

BF16, FP32 = Arithmetic("bf16"), Arithmetic("fp32")
GPU_BF16, GPU_FP32 = Arithmetic("bf16", "cuda"), Arithmetic("fp32", "cuda")


@pytest.mark.parametrize(
    ("milliseconds", "wanted", "chosen"),
    [
        ({BF16: 8.0, FP32: 1.0}, "auto", FP32),
        ({BF16: 1.0, FP32: 2.0}, "auto", BF16),
        ({BF16: 1.0, FP32: 1.05}, "auto", FP32),  # What is hardly slower and rounds nothing is taken.
        ({BF16: 8.0, FP32: 1.0}, "bf16", BF16),
        ({BF16: 1.0, FP32: 2.0}, "fp32", FP32),
        ({BF16: 8.0, FP32: 4.0, GPU_BF16: 0.1, GPU_FP32: 0.4}, "auto", GPU_BF16),
        ({BF16: 8.0, FP32: 4.0, GPU_BF16: 0.1, GPU_FP32: 0.4}, "fp32", GPU_FP32),
        ({BF16: 1.0, FP32: 2.0, GPU_BF16: 9.0, GPU_FP32: 3.0}, "auto", BF16),
    ],
)
def test_the_quickest_is_chosen_among_what_is_wanted(
    milliseconds: dict[Arithmetic, float], wanted: DtypeSetting, chosen: Arithmetic
) -> None:
    assert choose(tuple(Speed(one, taken) for one, taken in milliseconds.items()), wanted) == chosen


def test_a_machine_is_measured_once_and_a_damaged_measurement_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def measured(threads: int) -> tuple[Speed, ...]:
        asked.append(threads)
        return (Speed(BF16, 8.0), Speed(FP32, 1.0))

    first = speeds_of_this_machine(2, tmp_path, measured)
    assert (speeds_of_this_machine(2, tmp_path, measured), asked) == (first, [2])
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(b"[")
    assert (speeds_of_this_machine(2, tmp_path, measured), asked) == (first, [2, 2])
    speeds_of_this_machine(3, tmp_path, measured)
    assert asked == [2, 2, 3], "another number of threads is another measurement"


def test_masked_instructions_are_another_machine() -> None:
    assert machine(2, {}) == machine(2, {"HOME": "/somewhere"})
    assert len({machine(2, {}), machine(2, {"ATEN_CPU_CAPABILITY": "avx2"}), machine(3, {})}) == 3


def test_this_machine_is_measured_in_a_process_of_its_own_and_the_quicker_one_is_taken(tmp_path: Path) -> None:
    try:
        require_libraries()
    except SetupError as error:
        if os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
            raise
        pytest.skip(str(error))
    chosen = choose(speeds_of_this_machine(1, tmp_path))
    speeds = {speed.arithmetic: speed.milliseconds for speed in speeds_of_this_machine(1, tmp_path)}
    assert {BF16, FP32} <= set(speeds)
    assert speeds[chosen] <= 1.1 * min(speeds.values())
    assert all(0 < taken < 10_000 for taken in speeds.values())
    assert choose(speeds_of_this_machine(1, tmp_path), "bf16").dtype == "bf16"


def test_a_torch_that_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "torch"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libgomp is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SetupError, match="libgomp is missing"):
        speeds_of_this_machine(1, tmp_path / "cache")
