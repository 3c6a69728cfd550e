"""Placement of requests among engines: what decides, and what moves when engines come, go or are busy."""

from __future__ import annotations

import pytest

from antiphon.engine.api.messages import ChatTurn, GenerationRequest
from antiphon.engine.routing.placement import (
    CHUNK_BYTES,
    MOST_CHUNKS,
    InstanceLoad,
    affinity_key,
    least_loaded,
    place,
    preference,
)

LONG = "".join(f"line {number} of what is shared, " for number in range(200))
NAMES = ("a", "b", "c", "d", "e")


def asking(prompt: str = "", **changes: object) -> GenerationRequest:
    return GenerationRequest("r", "words", prompt, 8, **changes)  # type: ignore[arg-type]


def idle(*names: str) -> list[InstanceLoad]:
    return [InstanceLoad(name, 0, 16) for name in names]


def test_prompts_that_begin_alike_have_one_key() -> None:
    assert affinity_key(asking(f"{LONG} one")) == affinity_key(asking(f"{LONG} two, and more of it"))
    assert affinity_key(asking(LONG)) != affinity_key(asking(f"x{LONG}"))
    tokens = tuple(range(400))
    assert affinity_key(asking(prompt_ids=(*tokens, 1))) == affinity_key(asking(prompt_ids=(*tokens, 2)))
    turns = (ChatTurn("system", LONG), ChatTurn("user", "one"))
    assert affinity_key(asking(messages=turns)) == affinity_key(asking(messages=(turns[0], ChatTurn("user", "two"))))


def test_tenants_and_models_do_not_share_a_key() -> None:
    keys = {affinity_key(asking(LONG)), affinity_key(asking(LONG, cache_salt="tea"))}
    keys |= {affinity_key(asking(LONG, cache_salt="coffee")), affinity_key(GenerationRequest("r", "other", LONG, 8))}
    assert len(keys) == 4


def test_a_conversation_that_grows_changes_its_key_three_times_at_most() -> None:
    whole = CHUNK_BYTES * MOST_CHUNKS
    keys = [affinity_key(asking(LONG[:length])) for length in range(CHUNK_BYTES, whole * 2, 7)]
    assert len(set(keys)) == 4
    assert keys == sorted(keys, key=keys.index), "it came back to an earlier one"


@pytest.mark.parametrize("text", ["", "short", "ü" * 5_000, "\ud800 half of a pair"])
def test_any_text_has_a_key(text: str) -> None:
    assert len(affinity_key(asking(text))) == 16


def test_an_engine_that_comes_or_goes_moves_its_own_beginnings_alone() -> None:
    keys = [affinity_key(asking(f"{number} {LONG}")) for number in range(500)]
    before = [preference(key, NAMES)[0] for key in keys]
    after = [preference(key, NAMES[:-1])[0] for key in keys]
    assert {old for old, new in zip(before, after, strict=True) if old != new} == {"e"}
    for name in NAMES:
        assert 60 < before.count(name) < 140, "they are shared out"


def test_the_order_does_not_depend_on_the_order_of_the_list() -> None:
    key = affinity_key(asking(LONG))
    assert preference(key, NAMES) == preference(key, NAMES[::-1])


def test_a_busy_engine_is_passed_over_for_the_next_in_its_order() -> None:
    key = affinity_key(asking(LONG))
    first, second, third = preference(key, NAMES[:3])
    assert place(key, idle(*NAMES[:3])).name == first
    somewhat = [InstanceLoad(first, 15, 16), *idle(second, third)]
    assert place(key, somewhat).name == first
    clearly = [InstanceLoad(first, 16, 16), *idle(second, third)]
    assert place(key, clearly).name == second
    both = [InstanceLoad(first, 16, 16), InstanceLoad(second, 16, 16), *idle(third)]
    assert place(key, both).name == third


def test_engines_that_are_all_busy_alike_keep_their_beginnings() -> None:
    key = affinity_key(asking(LONG))
    first, *others = preference(key, NAMES)
    full = [InstanceLoad(name, 40, 16) for name in others]
    assert place(key, [InstanceLoad(first, 49, 16), *full]).name == first
    assert place(key, [InstanceLoad(first, 50, 16), *full]).name == others[0]


def test_a_larger_engine_takes_more_of_the_excess() -> None:
    key = affinity_key(asking(LONG))
    first, second = preference(key, NAMES[:2])
    assert place(key, [InstanceLoad(first, 16, 64), InstanceLoad(second, 0, 4)]).name == first
    assert place(key, [InstanceLoad(first, 16, 16), InstanceLoad(second, 0, 4)]).name == second


def test_one_slot_each() -> None:
    key = affinity_key(asking(LONG))
    first, second = preference(key, NAMES[:2])
    assert place(key, [InstanceLoad(first, 0, 1), InstanceLoad(second, 0, 1)]).name == first
    assert place(key, [InstanceLoad(first, 1, 1), InstanceLoad(second, 0, 1)]).name == second


def test_the_least_loaded_by_its_slots() -> None:
    assert least_loaded([InstanceLoad("a", 4, 4), InstanceLoad("b", 5, 16), InstanceLoad("c", 6, 16)]).name == "b"
