import pytest

from antiphon.engine.recent_work import RecentWork


def test_the_share_of_time_with_somebody_online_follows_the_last_half_minute() -> None:
    recent = RecentWork()
    recent.stepped(0.0, 0.0, 300.0, online=True)
    assert recent.online_share == pytest.approx(1.0, abs=1e-3)
    # Idle between two steps counts as time without anybody.
    recent.stepped(300.0, 330.0, 330.0, online=True)
    assert recent.online_share == pytest.approx(0.368, abs=1e-3)
    recent.stepped(330.0, 330.0, 360.0, online=False)
    assert recent.online_share == pytest.approx(0.368**2, abs=1e-3)


def test_what_batch_computes_of_prompts_for_each_token_follows_who_ended() -> None:
    recent = RecentWork()
    assert recent.batch_prompt == 0.0
    recent.batch_came(256, 64)
    recent.batch_came(8, 64)
    assert recent.batch_prompt == 4.0, "the first stands for all until some have ended"
    for _ in range(200):
        recent.batch_ended(0, 64)
    assert recent.batch_prompt == pytest.approx(0.0, abs=1e-3), "prompts that are kept cost nothing"
