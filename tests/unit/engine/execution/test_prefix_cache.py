import numpy as np

from antiphon.engine.execution.prefix_cache import PrefixCache, hash_prefixes


def test_a_chain_covers_whole_chunks_and_leaves_a_token_to_compute() -> None:
    assert len(hash_prefixes(list(range(64)), 32).digests) == 1
    assert len(hash_prefixes(list(range(65)), 32).digests) == 2
    assert hash_prefixes(list(range(32)), 32).digests == ()
    assert hash_prefixes([], 32).digests == ()


def test_prompts_with_the_same_beginning_share_digests_up_to_where_they_part() -> None:
    one, other = hash_prefixes([1] * 64 + [2] * 40, 32), hash_prefixes([1] * 64 + [3] * 40, 32)
    assert one.digests[:2] == other.digests[:2]
    assert one.digests[2] != other.digests[2]


def test_prompts_of_different_salts_share_nothing() -> None:
    one, other = hash_prefixes([1] * 128, 32, "north"), hash_prefixes([1] * 128, 32, "south")
    assert not set(one.digests) & set(other.digests)
    assert one == hash_prefixes([1] * 128, 32, "north")


def test_a_beginning_is_worth_keeping_the_second_time_it_is_seen() -> None:
    prefixes = PrefixCache()
    one, other = hash_prefixes([1] * 64 + [2] * 40, 32), hash_prefixes([1] * 64 + [3] * 40, 32)
    assert prefixes.cacheable_tokens(one) == ()
    assert prefixes.lookup(other) is None
    assert prefixes.cacheable_tokens(other) == (64,)
    state = np.zeros(10, dtype=np.uint8)
    prefixes.insert(other, 64, state)
    assert prefixes.lookup(one) == (64, state)
    assert prefixes.cacheable_tokens(hash_prefixes([1] * 64 + [4] * 40, 32)) == ()


def test_a_prompt_that_is_continued_is_worth_keeping_the_first_time() -> None:
    prefixes = PrefixCache()
    first = hash_prefixes([1] * 64 + [2] * 40, 32, "north")
    assert prefixes.cacheable_tokens(first, continues=True) == (96,)
    prefixes.insert(first, 96, np.zeros(10, dtype=np.uint8))
    longer = hash_prefixes([1] * 64 + [2] * 40 + [3] * 60, 32, "north")
    found = prefixes.lookup(longer)
    assert found is not None
    assert found[0] == 96
    assert prefixes.cacheable_tokens(longer, continues=True) == (160,)
    # What several conversations begin with is kept beside what each of them goes on with.
    other = hash_prefixes([1] * 64 + [5] * 40, 32, "north")
    assert prefixes.cacheable_tokens(other, continues=True) == (64, 96)


def test_the_least_recently_used_beginning_goes_first() -> None:
    prefixes = PrefixCache(capacity_bytes=25)
    chains = [hash_prefixes([value] * 33, 32) for value in range(3)]
    for chain in chains[:2]:
        prefixes.insert(chain, 32, np.zeros(10, dtype=np.uint8))
    assert prefixes.lookup(chains[0]) is not None
    prefixes.insert(chains[2], 32, np.zeros(10, dtype=np.uint8))
    assert prefixes.lookup(chains[1]) is None
    assert prefixes.lookup(chains[0]) is not None
    prefixes.insert(chains[1], 32, np.zeros(26, dtype=np.uint8))
    assert prefixes.lookup(chains[1]) is None
