import os
import time
from pathlib import Path

import numpy as np
import pytest

from antiphon.core.errors import EngineError
from antiphon.engine.execution.runtime import SequenceState
from antiphon.engine.execution.swap_space import SwapSpace

SECRET = b"the customer's own words"


def state(ticket: int, size: int = 1000) -> SequenceState:
    content = (SECRET + bytes([ticket])) * size
    return np.frombuffer(content[:size], dtype=np.uint8)


def settled(states: SwapSpace, on_disk: int) -> None:
    """Wait until so many states have been written."""
    deadline = time.monotonic() + 10
    while states.on_disk < on_disk:
        assert time.monotonic() < deadline
        time.sleep(0.001)
        states.drop(-1)


def files_of_this_process(folder: Path) -> list[str]:
    opened = Path("/proc/self/fd")
    targets = []
    for each in opened.iterdir():
        try:
            targets.append((os.readlink(each), each))
        except OSError:
            continue
    return [str(each) for target, each in targets if target.startswith(str(folder))]


def test_what_fits_stays_in_memory(tmp_path: Path) -> None:
    states = SwapSpace(2_500, tmp_path)
    states.put(1, state(1))
    states.put(2, state(2))
    assert states.host_bytes == 2_000
    assert bytes(states.take(2)) == bytes(state(2))
    assert states.host_bytes == 1_000
    assert states.on_disk == 0


def test_the_youngest_go_to_disk_and_come_back_unchanged(tmp_path: Path) -> None:
    states = SwapSpace(2_500, tmp_path)
    for ticket in (5, 3, 4, 1):
        states.put(ticket, state(ticket))
    settled(states, 2)
    assert states.host_bytes == 2_000
    for ticket in (1, 3, 4, 5):
        assert bytes(states.take(ticket)) == bytes(state(ticket))
    assert states.on_disk == 0
    assert states.host_bytes == 0


def test_no_file_has_a_name_and_none_holds_what_was_said(tmp_path: Path) -> None:
    states = SwapSpace(0, tmp_path)
    states.put(1, state(1))
    settled(states, 1)
    assert list(tmp_path.iterdir()) == []
    opened = files_of_this_process(tmp_path)
    assert len(opened) == 1
    content = Path(opened[0]).read_bytes()
    assert len(content) > 1_000
    assert SECRET not in content
    states.drop(1)
    assert files_of_this_process(tmp_path) == []


def test_one_that_comes_back_while_it_is_written_is_taken_from_memory(tmp_path: Path) -> None:
    states = SwapSpace(0, tmp_path)
    states.put(1, state(1, 5_000_000))
    assert bytes(states.take(1)) == bytes(state(1, 5_000_000))
    states.put(1, state(9))
    settled(states, 1)
    assert bytes(states.take(1)) == bytes(state(9))


def test_a_disk_that_takes_nothing_loses_nothing(tmp_path: Path) -> None:
    states = SwapSpace(0, tmp_path / "missing")
    states.put(1, state(1))
    deadline = time.monotonic() + 10
    while not states._disk_is_full and time.monotonic() < deadline:
        states.drop(-1)
    states.put(2, state(2))
    assert states.host_bytes == 2_000
    assert bytes(states.take(1)) == bytes(state(1))


def test_what_was_changed_on_disk_is_refused(tmp_path: Path) -> None:
    states = SwapSpace(0, tmp_path)
    states.put(1, state(1))
    settled(states, 1)
    with Path(files_of_this_process(tmp_path)[0]).open("r+b") as file:
        file.seek(500)
        (byte,) = file.read(1)
        file.seek(500)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(EngineError, match="cannot be read back"):
        states.take(1)


def test_closing_leaves_nothing_open(tmp_path: Path) -> None:
    states = SwapSpace(0, tmp_path)
    for ticket in range(4):
        states.put(ticket, state(ticket))
    states.close()
    assert files_of_this_process(tmp_path) == []
    assert states.host_bytes == 0
