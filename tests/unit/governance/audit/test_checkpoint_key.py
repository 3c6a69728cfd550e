from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.unit.catalog.examples import DEV

from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.governance.audit import checkpoint_key
from antiphon.governance.audit.checkpoint import signed_by
from antiphon.governance.audit.checkpoint_key import CheckpointKey, rotate


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "audit.secret"


@pytest.mark.parametrize("origin", ["", "two words", "plus+sign", "line\nbreak", "é"])
def test_an_origin_that_would_break_the_form_is_refused(origin: str) -> None:
    with pytest.raises(InvalidInputError, match="origin"):
        CheckpointKey(bytes(32), origin)


def test_the_key_is_made_once_and_only_its_owner_reads_it(path: Path) -> None:
    assert CheckpointKey.load(path).public == CheckpointKey.load(path).public
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(SetupError):
        CheckpointKey.load(path)


def test_what_earlier_keys_signed_holds_under_the_next_ones(path: Path) -> None:
    first = CheckpointKey.load(path)
    by_first = first.sign(DEV, 3, b"r" * 32)
    second = rotate(path)
    third = rotate(path)
    by_third = third.sign(DEV, 5, b"q" * 32)
    assert len({first.public, second.public, third.public}) == 3
    assert third.signed(by_first)
    assert third.signed(second.sign(DEV, 4, b"p" * 32))
    assert not signed_by(by_first, third.public)
    assert not first.signed(by_third)
    assert not third.signed(CheckpointKey(b"x" * 32).sign(DEV, 3, b"r" * 32))
    assert [one.key for one in third.earlier_keys(DEV)] == [first.verifier(DEV), second.verifier(DEV)]
    assert (path.stat().st_mode & 0o777, len(list(path.parent.iterdir()))) == (0o600, 2)


def test_a_process_that_holds_a_key_sees_that_it_was_replaced(path: Path) -> None:
    held = CheckpointKey.load(path)
    assert held.fresh() is held
    made = rotate(path)
    seen = held.fresh()
    assert (seen.public, seen.earlier) == (made.public, made.earlier)
    assert seen.fresh() is seen


def test_a_rotation_that_is_cut_off_leaves_the_key_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, real = CheckpointKey.load(path), checkpoint_key.replace

    def cut(file: Path, content: bytes) -> None:
        if file == path:
            raise SetupError("The disk is full.", where=str(file))
        real(file, content)

    monkeypatch.setattr(checkpoint_key, "replace", cut)
    with pytest.raises(SetupError, match="full"):
        rotate(path)
    left = CheckpointKey.load(path)
    assert (left.public, left.earlier) == (first.public, ())
    monkeypatch.setattr(checkpoint_key, "replace", real)
    made = rotate(path)
    assert [one.key for one in made.earlier_keys(DEV)] == [first.verifier(DEV)]


@pytest.mark.parametrize("field", ["key", "next", "signature", "countersignature"])
def test_a_changed_hand_over_is_refused(path: Path, field: str) -> None:
    rotate(path)
    beside = path.with_suffix(".earlier")
    one = msgspec.json.decode(beside.read_bytes())
    one[field] = one["next" if field == "key" else "key"] if field in ("key", "next") else "A" * 86 + "=="
    beside.write_bytes(msgspec.json.encode(one) + b"\n")
    with pytest.raises(SetupError, match="damaged"):
        CheckpointKey.load(path)
    beside.write_bytes(b"\xff")
    with pytest.raises(SetupError, match="damaged"):
        CheckpointKey.load(path)
    # Without the list the key still signs; what was signed before it is of nobody it knows.
    beside.unlink()
    assert CheckpointKey.load(path).earlier == ()
