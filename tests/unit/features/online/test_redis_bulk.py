"""Requests put together by hand are the ones that the client packs."""

from __future__ import annotations

from hashlib import sha256

import redis
from hypothesis import given
from hypothesis import strategies as st

from antiphon.features.online.redis.writer import Digest, packed_script

records = st.lists(st.tuples(st.binary(min_size=16, max_size=24), st.binary()))


@given(st.lists(st.binary(max_size=20), max_size=2), records, st.text(max_size=20))
def test_a_script_is_packed_as_the_client_packs_it(
    keys: list[bytes], found: list[tuple[bytes, bytes]], script: str
) -> None:
    arguments = [part for name, value in found for part in (b"t:e:" + name, value)]
    wanted = redis.Connection().pack_command("EVAL", script, len(keys), *keys, b"60000", *arguments)
    names, values = ([record[part] for record in found] for part in range(2))
    assert packed_script(script, keys, b"60000", b"t:e:", names, values) == b"".join(wanted)


@given(st.lists(st.tuples(st.binary(min_size=16, max_size=24), st.binary(max_size=40)), min_size=1, max_size=8))
def test_a_digest_is_a_sum_that_no_order_and_no_cutting_changes(found: list[tuple[bytes, bytes]]) -> None:
    keys, values = ([record[part] for record in found] for part in range(2))
    whole, parts = Digest(), Digest()
    whole.add(keys, values)
    for key, value in reversed(found):
        parts.add([key], [value])
    wanted = sum(int(sha256(len(key).to_bytes(2, "big") + key + value).hexdigest(), 16) for key, value in found)
    assert (whole.hex, whole.size, whole.values) == (parts.hex, parts.size, parts.values)
    assert whole.hex == f"{wanted % 2**256:064x}"
