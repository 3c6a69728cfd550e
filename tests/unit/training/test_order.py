from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from antiphon.core.errors import AntiphonError, ConflictError, CorruptionError, InvalidInputError, SetupError
from antiphon.training import child, fine_tune
from antiphon.training.base import hugging_face_name, permute, unpermute
from antiphon.training.order import ERROR, Failure, TrainingOrder, raised, read_order, write_order


@pytest.mark.parametrize("kind", [InvalidInputError, CorruptionError, SetupError, ConflictError, AntiphonError])
def test_an_error_crosses_the_process_as_what_it_is(kind: type[AntiphonError]) -> None:
    error = kind("It broke.", where="there", next_step="Mend it.")
    again = raised(
        msgspec.json.decode(
            msgspec.json.encode(Failure(error.code, error.what, error.where, error.next_step)), type=Failure
        )
    )
    assert type(again) is kind
    assert str(again) == str(error)


def test_an_order_comes_back_as_it_was_written(tmp_path: Path) -> None:
    order = TrainingOrder(str(tmp_path), "desk.v1", "base", "b", "examples", "e")
    write_order(order)
    assert read_order(tmp_path) == order
    (tmp_path / "order.json").write_text("{")
    with pytest.raises(CorruptionError, match="cannot be read"):
        read_order(tmp_path)


@pytest.mark.parametrize(
    ("error", "code", "kind", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), child.DISK_FULL, SetupError, "disk is full"),
        (OSError(errno.EFBIG, "File too large"), child.DISK_FULL, SetupError, "disk is full"),
        (MemoryError(), child.OUT_OF_MEMORY, SetupError, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), child.OUT_OF_MEMORY, SetupError, "out of memory"),
        (CorruptionError("Bad."), child.FAILED, CorruptionError, "Bad"),
        (KeyError("x"), child.FAILED, AntiphonError, "KeyError"),
    ],
)
def test_whatever_ends_a_training_is_told(
    tmp_path: Path, error: Exception, code: int, kind: type[AntiphonError], said: str
) -> None:
    assert child.explain(error, tmp_path) == code
    told = raised(msgspec.json.decode((tmp_path / ERROR).read_bytes(), type=Failure))
    assert type(told) is kind
    assert said in told.what


def test_what_a_library_says_stays_out_of_logs_and_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = "ZqPlantedExample"  # not in the line that raises, which a traceback shows

    def quoting(folder: Path) -> None:
        raise ValueError(f"no token for {planted!r}")

    monkeypatch.setattr(fine_tune, "read_order", quoting)
    assert fine_tune.main([str(tmp_path)]) == child.FAILED
    written = capsys.readouterr().err
    assert "ValueError: (its message is withheld)" in written
    assert "test_order.py" in written  # where it happened is told
    told = raised(msgspec.json.decode((tmp_path / ERROR).read_bytes(), type=Failure))
    assert told.what == "The training failed: ValueError: (its message is withheld)"
    assert planted not in written + (tmp_path / ERROR).read_text()


def test_one_process_holds_a_folder(tmp_path: Path) -> None:
    with child.alone(tmp_path):
        assert child.left_over(tmp_path) == os.getpid()
        with pytest.raises(ConflictError), child.alone(tmp_path):
            pass
    with child.alone(tmp_path):
        pass


def test_a_pid_that_was_given_away_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / child.LOCK).write_bytes(msgspec.json.encode(child.ProcessMark(os.getpid(), 1)))
    assert child.left_over(tmp_path) is None
    (tmp_path / child.LOCK).write_bytes(b"")
    assert child.left_over(tmp_path) is None


def test_names_and_rows_of_llamas_matrices() -> None:
    assert hugging_face_name("blk.12.attn_output.weight") == "model.layers.12.self_attn.o_proj.weight"
    assert hugging_face_name("output_norm.weight") == "model.norm.weight"
    assert hugging_face_name("blk.1.attn_q.bias") is None
    rows = np.arange(8, dtype=np.float32).reshape(8, 1)
    assert permute(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert np.array_equal(unpermute(permute(rows, 2), 2), rows)
