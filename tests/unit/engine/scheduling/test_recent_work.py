import pytest

from antiphon.engine.scheduling.recent_work import BatchLengths, OnlineShare


def test_the_share_of_time_with_somebody_online_follows_the_last_half_minute() -> None:
    share = OnlineShare(0.0)
    share.observe_turn(0.0, 300.0, online=True)
    assert share.value == pytest.approx(1.0, abs=1e-3)
    assert not share.leaves_gaps
    # What lies between two turns is idle.
    share.observe_turn(330.0, 330.0, online=True)
    assert share.value == pytest.approx(0.368, abs=1e-3)
    share.observe_turn(330.0, 360.0, online=False)
    assert share.value == pytest.approx(0.368**2, abs=1e-3)
    assert share.leaves_gaps


def test_what_batch_computes_of_prompts_for_each_token_follows_who_ended() -> None:
    lengths = BatchLengths()
    assert lengths.prompt_ratio == 0.0
    lengths.add(256, 64)
    lengths.add(8, 64)
    assert lengths.prompt_ratio == 4.0, "the first stands for all until some have ended"
    for _ in range(200):
        lengths.remove(0, 64)
    assert lengths.prompt_ratio == pytest.approx(0.0, abs=1e-3), "cached prompts cost nothing"
