import numpy as np

from antiphon.engine.execution.prefix_cache import Prefixes, chain_of


def test_a_chain_covers_whole_chunks_and_leaves_a_token_to_compute() -> None:
    assert len(chain_of(list(range(64)), 32).digests) == 1
    assert len(chain_of(list(range(65)), 32).digests) == 2
    assert chain_of(list(range(32)), 32).digests == ()
    assert chain_of([], 32).digests == ()


def test_prompts_with_the_same_beginning_share_digests_up_to_where_they_part() -> None:
    one, other = chain_of([1] * 64 + [2] * 40, 32), chain_of([1] * 64 + [3] * 40, 32)
    assert one.digests[:2] == other.digests[:2]
    assert one.digests[2] != other.digests[2]


def test_prompts_of_different_salts_share_nothing() -> None:
    one, other = chain_of([1] * 128, 32, "north"), chain_of([1] * 128, 32, "south")
    assert not set(one.digests) & set(other.digests)
    assert one == chain_of([1] * 128, 32, "north")


def test_a_beginning_is_worth_keeping_the_second_time_it_is_seen() -> None:
    prefixes = Prefixes()
    one, other = chain_of([1] * 64 + [2] * 40, 32), chain_of([1] * 64 + [3] * 40, 32)
    assert prefixes.worth_keeping(one) == 0
    assert prefixes.longest(other) is None
    assert prefixes.worth_keeping(other) == 64
    state = np.zeros(10, dtype=np.uint8)
    prefixes.keep(other, 64, state)
    assert prefixes.longest(one) == (64, state)
    assert prefixes.worth_keeping(chain_of([1] * 64 + [4] * 40, 32)) == 0


def test_the_least_recently_used_beginning_goes_first() -> None:
    prefixes = Prefixes(capacity_bytes=25)
    chains = [chain_of([value] * 33, 32) for value in range(3)]
    for chain in chains[:2]:
        prefixes.keep(chain, 32, np.zeros(10, dtype=np.uint8))
    assert prefixes.longest(chains[0]) is not None
    prefixes.keep(chains[2], 32, np.zeros(10, dtype=np.uint8))
    assert prefixes.longest(chains[1]) is None
    assert prefixes.longest(chains[0]) is not None
    prefixes.keep(chains[1], 32, np.zeros(26, dtype=np.uint8))
    assert prefixes.longest(chains[1]) is None
