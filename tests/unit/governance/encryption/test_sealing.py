from __future__ import annotations

import os

import pytest

from antiphon.core.codec import Envelope, PayloadContext, PlainCodec, pack, unpack
from antiphon.core.errors import CorruptionError
from antiphon.core.scope import Scope
from antiphon.governance.encryption.sealing import AesGcmCodec, UnsealingCodec

HERE = Scope("acme", "prod")
CONTEXT = PayloadContext("receipt/1", HERE, "p1")


class Keys:
    """Data keys in memory."""

    def __init__(self) -> None:
        self.keys: dict[tuple[Scope, str], bytes] = {}
        self.current = "k1"

    def sealing_key(self, scope: Scope) -> tuple[str, bytes]:
        return self.current, self.keys.setdefault((scope, self.current), os.urandom(32))

    def opening_key(self, scope: Scope, key_id: str) -> bytes:
        try:
            return self.keys[scope, key_id]
        except KeyError:
            raise CorruptionError(f"no key {key_id}") from None

    def index_key(self, scope: Scope) -> bytes:
        return self.keys.setdefault((scope, "index"), os.urandom(32))


@pytest.fixture
def codec() -> AesGcmCodec:
    return AesGcmCodec(Keys())


def test_what_is_sealed_opens_and_does_not_show(codec: AesGcmCodec) -> None:
    envelope = codec.seal(b"a secret of some length", CONTEXT)
    assert (envelope.schema, envelope.codec, envelope.key_id) == ("receipt/1", "aesgcm", "k1")
    assert b"secret" not in pack(envelope)
    assert codec.open(unpack(pack(envelope)), CONTEXT) == b"a secret of some length"
    assert codec.open(codec.seal(b"", CONTEXT), CONTEXT) == b""


@pytest.mark.parametrize(
    "elsewhere",
    [
        PayloadContext("receipt/1", HERE, "p2"),
        PayloadContext("blob/1", HERE, "p1"),
        PayloadContext("receipt/1", Scope("acme", "dev"), "p1"),
        PayloadContext("receipt/1", Scope("other", "prod"), "p1"),
    ],
)
def test_a_payload_that_was_moved_does_not_open(codec: AesGcmCodec, elsewhere: PayloadContext) -> None:
    keys = codec._keys
    # Even with the same key on both sides the place decides.
    keys.keys[elsewhere.scope, "k1"] = keys.sealing_key(HERE)[1]  # type: ignore[attr-defined]
    sealed = codec.seal(b"content", CONTEXT)
    relabelled = Envelope(elsewhere.schema, sealed.codec, sealed.key_id, sealed.content)
    with pytest.raises(CorruptionError, match="does not open with the key k1"):
        codec.open(relabelled, elsewhere)


def test_every_changed_byte_is_found(codec: AesGcmCodec) -> None:
    sealed = codec.seal(b"content", CONTEXT)
    for position in range(len(sealed.content)):
        changed = bytearray(sealed.content)
        changed[position] ^= 1
        with pytest.raises(CorruptionError):
            codec.open(Envelope(sealed.schema, sealed.codec, sealed.key_id, bytes(changed)), CONTEXT)
    for length in range(len(sealed.content)):
        with pytest.raises(CorruptionError):
            codec.open(Envelope(sealed.schema, sealed.codec, sealed.key_id, sealed.content[:length]), CONTEXT)


def test_nonces_do_not_repeat_and_a_subkey_is_used_so_often_at_most() -> None:
    codec = AesGcmCodec(Keys(), uses=100)
    sealed = [codec.seal(b"the same", CONTEXT).content for _ in range(1_000)]
    by_salt: dict[bytes, set[bytes]] = {}
    for content in sealed:
        by_salt.setdefault(content[:16], set()).add(content[16:28])
    assert sorted(len(nonces) for nonces in by_salt.values()) == [100] * 10
    assert len({content[28:] for content in sealed}) == 1_000


def test_two_processes_share_a_data_key_and_no_subkey() -> None:
    keys = Keys()
    first, second = AesGcmCodec(keys), AesGcmCodec(keys)
    assert first.seal(b"x", CONTEXT).content[:16] != second.seal(b"x", CONTEXT).content[:16]
    assert second.open(first.seal(b"x", CONTEXT), CONTEXT) == b"x"


def test_after_a_rotation_old_payloads_open_and_new_ones_have_the_new_key() -> None:
    keys = Keys()
    codec = AesGcmCodec(keys)
    before = codec.seal(b"old", CONTEXT)
    keys.current = "k2"
    after = codec.seal(b"new", CONTEXT)
    assert (before.key_id, after.key_id) == ("k1", "k2")
    assert (codec.open(before, CONTEXT), codec.open(after, CONTEXT)) == (b"old", b"new")


def test_a_clear_payload_in_the_place_of_a_sealed_one_is_refused(codec: AesGcmCodec) -> None:
    clear = PlainCodec().seal(b"forged", CONTEXT)
    with pytest.raises(CorruptionError, match="encrypted and reads only"):
        codec.open(clear, CONTEXT)
    # Switched off, as a migration does, the forgery would be read.
    assert AesGcmCodec(Keys(), accept_plain=True).open(clear, CONTEXT) == b"forged"


def test_on_the_way_out_of_encryption_both_are_read_and_plaintext_is_written(codec: AesGcmCodec) -> None:
    leaving = UnsealingCodec(codec)
    assert leaving.open(codec.seal(b"sealed", CONTEXT), CONTEXT) == b"sealed"
    assert leaving.seal(b"clear", CONTEXT) == PlainCodec().seal(b"clear", CONTEXT)


def test_an_index_is_stable_and_tells_nothing_across_scopes(codec: AesGcmCodec) -> None:
    found = codec.index("orders:e1", HERE, "event")
    assert found == codec.index("orders:e1", HERE, "event")
    others = {
        codec.index("orders:e2", HERE, "event"),
        codec.index("orders:e1", HERE, "other"),
        codec.index("orders:e1", Scope("other", "prod"), "event"),
    }
    assert len(others | {found}) == 4
    assert "orders" not in found
