"""The comparison of a gateway with one without Trust: that it compares what it says, in a very short form."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.gateway.contenders import Cores
from benchmarks.governance import trust_cost
from benchmarks.governance.encrypted_project import make, serving
from benchmarks.governance.trust_cost import Gateway, Slice
from tests.chaos.harness.running import scratch


@pytest.mark.chaos
async def test_both_gateways_answer_and_only_one_records() -> None:
    with scratch() as folder:
        size = {"rounds": 1, "slice_seconds": 0.3, "shops": 20}
        found = await trust_cost.measure(Path(folder) / "project", size, Cores(None, None))
    assert found["answers_recorded"] > 20
    for kind in ("application", "plain model"):
        assert all(rate > 0 for rate in found["kinds"][kind]["requests_per_second"].values())
        assert all(spent > 0 for spent in found["kinds"][kind]["gateway_cpu_ms"].values())


@pytest.mark.chaos
async def test_a_gateway_is_not_compared_with_itself() -> None:
    """The switch: without the look at their difference, the real one beside itself would lose nothing."""
    with scratch() as folder:
        project = make(Path(folder) / "project", "plaintext")
        async with serving(project, worker=False) as processes:
            real = Gateway(project.port, processes[1].pid, project.key)
            with pytest.raises(RuntimeError, match="do not differ in Trust"):
                await trust_cost.require_difference(project, {"with": real, "without": real})


def test_a_loss_is_of_the_pairs_and_says_how_sure_it_is() -> None:
    # The machine slows down by half meanwhile; each pair says the same all the same.
    others = [Slice(100.0 * speed, 0.001, 100) for speed in (1.0, 0.9, 0.8, 0.6, 0.5)]
    ours = [
        Slice(one.rate * share, 0.00125, 90) for one, share in zip(others, (0.88, 0.9, 0.9, 0.9, 0.92), strict=True)
    ]
    found = trust_cost.compared({"with": ours, "without": others})
    loss, low, high = found["loss"]
    assert loss == pytest.approx(0.1)
    assert low <= loss <= high
    assert found["loss_at_saturation"] == [0.2, 0.2, 0.2]
    same = trust_cost.compared({"with": others, "without": others})
    assert same["loss"] == same["loss_at_saturation"] == [0.0, 0.0, 0.0]
