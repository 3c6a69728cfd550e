import pytest
from benchmarks.colocation.traces import Scaling, arrivals, pieces


def test_pieces_hold_every_request_once_and_each_seeds_first_piece_comes_first() -> None:
    scaling = Scaling(rate=0.1)
    found = pieces("conv", (0, 1), 90.0, 30.0, scaling)
    assert list(found) == [0, 3, 1, 4, 2, 5]
    for seed in (0, 1):
        whole = arrivals("conv", seed, 90.0, scaling)
        there = [(30.0 * piece + each.at, each) for piece in range(3) for each in found[3 * seed + piece]]
        assert [at for at, _ in there] == pytest.approx([request.at for request in whole])
        assert [each.prompt_tokens for _, each in there] == [request.prompt_tokens for request in whole]
