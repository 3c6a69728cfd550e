from __future__ import annotations

import os
import queue
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from antiphon.catalog.pipe_channel import PipeChannel, message_of, names_of

Heard = queue.Queue[Collection[str] | None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Longer than the path of a socket may be."""
    return tmp_path / ("long" * 40) / "run" / "doorbell"


@pytest.fixture
def heard(folder: Path) -> Iterator[Heard]:
    """What another process hears."""
    rings, channel = Heard(), PipeChannel(folder)
    channel.open(rings.put)
    yield rings
    channel.close()


def test_a_ring_reaches_every_other_process_and_not_the_one_that_rings(folder: Path, heard: Heard) -> None:
    own, second = Heard(), Heard()
    ringing, other = PipeChannel(folder), PipeChannel(folder)
    ringing.open(own.put)
    other.open(second.put)
    ringing.committed({"runs:dev", "events:dev"})
    assert heard.get(timeout=5) == second.get(timeout=5) == {"runs:dev", "events:dev"}
    assert own.empty()
    for channel in (ringing, other):
        channel.close()


def test_pipes_are_the_owners_alone_and_go_with_their_channel(folder: Path) -> None:
    channel = PipeChannel(folder)
    channel.open(print)
    (pipe,) = folder.iterdir()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert stat.S_IMODE(pipe.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    channel.close()
    assert list(folder.iterdir()) == []
    again = Heard()
    channel.open(again.put)
    PipeChannel(folder).committed({"runs:dev"})
    assert again.get(timeout=5) == {"runs:dev"}
    channel.close()


def test_what_the_dead_left_is_removed_and_the_living_hear(folder: Path, heard: Heard) -> None:
    stale = folder / "1-dead.pipe"
    os.mkfifo(stale)
    PipeChannel(folder).committed({"runs:dev"})
    assert heard.get(timeout=5) == {"runs:dev"}
    assert not stale.exists()


def test_a_pipe_that_is_being_made_is_let_alone(folder: Path, heard: Heard) -> None:
    hidden = folder / ".1-new.pipe"
    os.mkfifo(hidden)
    PipeChannel(folder).committed({"runs:dev"})
    assert heard.get(timeout=5)
    assert hidden.exists()


def test_a_full_pipe_holds_nobody_up_and_its_owner_takes_it_for_everything(folder: Path, heard: Heard) -> None:
    stopped = folder / "1-stopped.pipe"
    os.mkfifo(stopped)
    reading = os.open(stopped, os.O_RDONLY | os.O_NONBLOCK)
    channel = PipeChannel(folder)
    for _ in range(20_000):
        channel.committed({"runs:dev"})
    heard.get(timeout=5)  # One that reads is rung, or rung for everything when it was slow.
    waiting = os.read(reading, 1 << 20)
    os.close(reading)
    assert len(waiting) < 20_000 * len(message_of({"runs:dev"})), "it was never full"
    assert names_of(waiting) is None


def test_nothing_is_written_to_what_is_no_pipe(folder: Path, heard: Heard, tmp_path: Path) -> None:
    file, target, link = folder / "file.pipe", tmp_path / "target", folder / "link.pipe"
    file.write_bytes(b"content")
    target.write_bytes(b"target")
    link.symlink_to(target)
    PipeChannel(folder).committed({"runs:dev"})
    assert heard.get(timeout=5)
    assert (file.read_bytes(), target.read_bytes()) == (b"content", b"target")


def test_where_no_pipe_can_be_made_it_is_said_and_nothing_else_fails(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "run").write_text("a file")
    channel = PipeChannel(tmp_path / "run" / "doorbell")
    channel.open(print)
    channel.committed({"runs:dev"})
    channel.close()
    assert "new work is found by polling" in caplog.text


def test_a_message_is_short_whatever_was_rung() -> None:
    assert names_of(message_of({"runs:dev"})) == {"runs:dev"}
    assert names_of(message_of({f"runs:environment-{number}" for number in range(100)})) is None
    assert names_of(message_of({"runs:dev"}) + message_of({"events:dev"})) == {"runs:dev", "events:dev"}
