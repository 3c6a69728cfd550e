from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.catalog.examples import DEV, OTHER

from antiphon.core.errors import CorruptionError, InvalidInputError, SetupError
from antiphon.governance.audit import merkle
from antiphon.governance.audit.checkpoint import key_hash, parse, signed_by
from antiphon.governance.audit.checkpoint_key import CheckpointKey
from antiphon.governance.audit.merkle import Tree, leaf_hash
from antiphon.governance.audit.witness import TAIL_BYTES, Witness, read_witness

KEY = CheckpointKey(bytes(range(32)))
ROOT = bytes(reversed(range(32)))
SIGNED = KEY.sign(DEV, 42, ROOT)


def test_a_checkpoint_has_the_published_form() -> None:
    lines = SIGNED.note.split("\n")
    assert lines[:4] == ["antiphon/default/dev", "42", base64.b64encode(ROOT).decode(), ""]
    dash, name, signature = lines[4].split(" ")
    assert (dash, name, lines[5:]) == ("\u2014", "antiphon/default/dev", [""])
    assert base64.b64decode(signature)[:4] == key_hash(name, KEY.public)
    assert len(base64.b64decode(signature)) == 68
    name, hashed, public = KEY.verifier(DEV).split("+", 2)
    assert bytes.fromhex(hashed) == key_hash(name, base64.b64decode(public)[1:])


def test_the_key_hash_is_signed_notes() -> None:
    # The example key of golang.org/x/mod/sumdb/note.
    name, hashed, public = "PeterNeumann", "c74f20a3", "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    assert key_hash(name, base64.b64decode(public)[1:]).hex() == hashed


def test_a_checkpoint_is_read_back_and_its_signature_holds() -> None:
    assert parse(SIGNED.note) == SIGNED
    assert signed_by(parse(SIGNED.note), KEY.public)
    assert not signed_by(SIGNED, CheckpointKey(b"x" * 32).public)
    cosigned = parse(f"{SIGNED.note}\u2014 witness.example AAAAAAAA\n")
    assert signed_by(cosigned, KEY.public)
    # Another scope's checkpoint with the same numbers is another one.
    assert KEY.sign(OTHER, 42, ROOT).note != SIGNED.note


@given(st.integers(0, len(SIGNED.note.encode()) - 1), st.integers(1, 255))
@settings(max_examples=400)
def test_no_changed_checkpoint_holds(position: int, flip: int) -> None:
    content = bytearray(SIGNED.note.encode())
    content[position] ^= flip
    try:
        changed = parse(content.decode())
    except (InvalidInputError, UnicodeDecodeError):
        return
    assert not signed_by(changed, KEY.public)


@given(st.text(max_size=300) | st.sampled_from([SIGNED.note[:-1], SIGNED.note + "x", SIGNED.note.replace("42", "042")]))
@settings(max_examples=200)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse(text)


class Grown:
    """A tree with all its leaves, for proofs."""

    def __init__(self) -> None:
        self.leaves: list[bytes] = []

    def grow(self, count: int, word: str = "entry") -> Tree:
        self.leaves += [leaf_hash(f"{word} {number}".encode()) for number in range(count)]
        return Tree().extended(self.leaves)[0]

    def kept(self, level: int, start: int, end: int) -> list[bytes]:
        if level == 0:
            return self.leaves[start:end]
        return [Tree().extended(self.leaves[at << level : at + 1 << level])[0].root for at in range(start, end)]


def test_a_witness_takes_what_continues_and_refuses_another_history(tmp_path: Path) -> None:
    witness, grown = Witness(tmp_path / "far" / "witness"), Grown()
    assert witness.read().checkpoints == ()
    first = grown.grow(3)
    with witness.turn() as turn:
        assert turn.append(KEY.sign(DEV, 3, first.root), ())
        assert turn.append(KEY.sign(OTHER, 3, first.root), ())
    second = grown.grow(5)
    proof = merkle.consistency(grown.kept, 3, 8)
    with witness.turn() as turn:
        assert turn.append(KEY.sign(DEV, 8, second.root), proof)
        assert not turn.append(KEY.sign(DEV, 8, second.root), ())
    forged = Grown().grow(9, "other")
    with witness.turn() as turn:
        for size, root, given_proof in ((9, forged.root, proof), (8, forged.root, ()), (2, forged.root, ())):
            with pytest.raises(CorruptionError, match="checkpoint of 8 records is witnessed"):
                turn.append(KEY.sign(DEV, size, root), given_proof)
    assert [(one.origin, one.size) for one in witness.read().checkpoints] == [
        ("antiphon/default/dev", 3), ("antiphon/other/dev", 3), ("antiphon/default/dev", 8),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "cut", [*range(0, len(SIGNED.note.encode()), 9), *(len(SIGNED.note.encode()) + more for more in (-1, 0, 1))]
)
def test_a_torn_end_costs_nothing_that_was_told(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "witness"
    first = KEY.sign(OTHER, 7, ROOT)
    file.write_bytes(first.note.encode() + b"\n" + (SIGNED.note.encode() + b"\n")[:cut])
    whole = cut >= len(SIGNED.note.encode())
    found = Witness(file).read()
    assert [one.size for one in found.checkpoints] == ([7, 42] if whole else [7])
    assert (found.problems, found.torn) == ((), 0 if whole else cut)
    with Witness(file).turn() as turn:
        assert turn.append(SIGNED, ()) is not whole
        assert turn.append(KEY.sign(OTHER, 7, ROOT), ()) is False
    third = KEY.sign(CheckpointScope, 1, ROOT)
    with Witness(file).turn() as turn:
        assert turn.append(third, ())
    assert [one.size for one in Witness(file).read().checkpoints] == [7, 42, 1]
    assert Witness(file).read().problems == ()


CheckpointScope = type(DEV)("third", "dev")


def test_what_is_no_checkpoint_in_a_witness_file_is_named() -> None:
    found = read_witness(SIGNED.note.encode() + b"\nnonsense\n\nmore\n\n" + SIGNED.note.encode() + b"\n")
    assert len(found.checkpoints) == 2
    assert found.problems == ("line 7 of the witness file begins no checkpoint",)
    assert read_witness(os.urandom(3_000)).checkpoints == ()


def test_the_last_checkpoint_is_found_at_the_end_of_a_long_file(tmp_path: Path) -> None:
    file = tmp_path / "witness"
    block = KEY.sign(OTHER, 5, ROOT).note.encode() + b"\n"
    file.write_bytes(SIGNED.note.encode() + b"\n" + block * (2 * TAIL_BYTES // len(block)))
    with Witness(file).turn() as turn:
        assert (turn.last(KEY.origin(OTHER)), turn.last(KEY.origin(DEV))) == (KEY.sign(OTHER, 5, ROOT), SIGNED)
        assert turn.last("nobody") is None


def test_a_witness_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="witness file"), Witness(tmp_path / "file" / "witness").turn():
        pass
    with pytest.raises(SetupError, match="witness file"):
        Witness(tmp_path).read()
