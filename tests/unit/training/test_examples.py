from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from antiphon.core.errors import CorruptionError, InvalidInputError
from antiphon.training.examples import Example, Part, check, read, write


def example(name: str, label: str, *, old: bool = False, weight: float = 1.0) -> Example:
    return Example(name, "How late? é\n", (Part('{"outlook": "', 0.0), Part(label, weight, label=True)), old)


SOUND = (example("a", "delayed"), example("b", "on_time", old=True))


def test_examples_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    sha256 = write(path, SOUND)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read(path, sha256, Example) == SOUND
    assert SOUND[0].learned == "delayed"
    assert list(tmp_path.iterdir()) == [path]


def test_a_changed_or_absent_file_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    sha256 = write(path, SOUND)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CorruptionError, match="were changed"):
        read(path, sha256, Example)
    with pytest.raises(CorruptionError, match="gone"):
        read(tmp_path / "absent", sha256, Example)


def test_a_line_that_is_no_example_is_named(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    content = b'{"id": "a", "prompt": "x", "parts": []}\n{"id": "b"}\n'
    path.write_bytes(content)
    with pytest.raises(CorruptionError) as raised:
        read(path, hashlib.sha256(content).hexdigest(), Example)
    assert raised.value.where == f"{path}:2"


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        ((), "empty"),
        ((example("a", "delayed", old=True), example("b", "on_time", old=True)), "empty"),
        ((example("a", "delayed"), example("b", "delayed")), "'delayed'"),
        ((example("a", "delayed"), example("a", "on_time")), "twice"),
        ((example("a", "delayed"), example("b", "on_time", weight=0.0)), "nothing to learn"),
        ((example("a", "delayed"), example("b", "on_time", weight=float("inf"))), "not finite"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused(examples: tuple[Example, ...], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        check(examples)


def test_two_labels_suffice() -> None:
    check(SOUND)
