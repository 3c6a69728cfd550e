"""The supervisor over tiny real children."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.autogroups import session_nice
from tests.harness.ports import free_port

from antiphon.core.errors import SetupError
from antiphon.core.supervision import SUPERVISOR
from antiphon.operations.children import ChildSpec, FileExists, HttpAnswers, SocketAnswers
from antiphon.operations.listening import listen
from antiphon.operations.preflight import end_left_over
from antiphon.operations.processes import read_records, started_ticks, statuses
from antiphon.operations.supervisor import Backoff, ProcessEvent, Supervisor

# Says that it is ready, ends on SIGTERM, and tells in a journal what happened to it.
CHILD = """
import os, signal, sys, time
name, folder = sys.argv[1], sys.argv[2]
def tell(what):
    with open(folder + "/journal", "a") as journal:
        journal.write(f"{name} {what}\\n")
def end(*_):
    tell("term")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
tell("start")
open(f"{folder}/{name}.ready", "w").write(str(os.getpid()))
while True:
    signal.pause()
"""


def child(tmp_path: Path, name: str, code: str = CHILD, **changes) -> ChildSpec:
    command = (sys.executable, "-c", textwrap.dedent(code), name, str(tmp_path))
    return ChildSpec(**{"name": name, "command": command, "ready": FileExists(tmp_path / f"{name}.ready"), **changes})


class Watched:
    """A supervisor and everything that it tells."""

    def __init__(self, tmp_path: Path, *children: ChildSpec, **options) -> None:
        self.happened: list[ProcessEvent] = []
        self.stop, self.hurry = asyncio.Event(), asyncio.Event()
        self.run = tmp_path / "run"
        self.supervisor = Supervisor(
            children,
            run=self.run,
            logs=tmp_path / "logs",
            tell=self.happened.append,
            backoff=options.pop("backoff", Backoff(first=0.01, last=0.05)),
            poll=0.01,
            **{"drain_order": [spec.name for spec in reversed(children)], **options},
        )

    async def __aenter__(self) -> Watched:
        self.task = asyncio.create_task(self.supervisor.supervise(self.stop, self.hurry))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        async with asyncio.timeout(20):
            await asyncio.gather(self.task, return_exceptions=True)

    def of(self, event: str) -> list[str]:
        return [one.process for one in self.happened if one.event == event]

    async def until(self, condition) -> None:
        async with asyncio.timeout(20):
            while not condition():
                if self.task.done():
                    await self.task
                    raise AssertionError("the supervisor ended")
                await asyncio.sleep(0.01)

    def pid(self, name: str) -> int:
        return next(record.pid for record in read_records(self.run) if record.name == name)


async def test_children_start_after_what_they_need_and_drain_in_order(tmp_path) -> None:
    first, second = child(tmp_path, "first"), child(tmp_path, "second", after=("first",))
    async with Watched(tmp_path, first, second) as watched:
        await watched.until(lambda: len(watched.of("ready")) == 2)
        assert watched.of("ready") == ["first", "second"]
        pids = [watched.pid(name) for name in ("first", "second")]
        assert os.getpgid(pids[0]) == pids[0] != os.getpgid(pids[1])
    assert watched.of("stopped") == ["second", "first"]
    assert (tmp_path / "journal").read_text().split("\n")[2:4] == ["second term", "first term"]
    assert all(started_ticks(pid) is None for pid in pids)
    assert list(watched.run.glob("*.pid")) == []


async def test_nothing_is_away_while_everything_is_being_stopped(tmp_path) -> None:
    unhurried = CHILD.replace("sys.exit(0)", "time.sleep(0.6); sys.exit(0)")
    async with Watched(tmp_path, child(tmp_path, "first", unhurried), child(tmp_path, "second")) as watched:
        await watched.until(lambda: len(watched.of("ready")) == 2)
        watched.stop.set()
        await watched.until(lambda: watched.of("stopped") == ["second"])
        assert {one.name: one.state for one in statuses(watched.run)} == {"first": "running", "second": "stopped"}


async def test_what_dies_is_restarted_and_the_delay_doubles(tmp_path) -> None:
    spec = child(tmp_path, "one", silence=60.0)
    async with Watched(tmp_path, spec, backoff=Backoff(first=0.02, last=0.05)) as watched:
        for restarts in range(4):
            await watched.until(lambda: len(watched.of("ready")) == restarts + 1)  # noqa: B023
            os.kill(watched.pid("one"), signal.SIGKILL)
        await watched.until(lambda: len(watched.of("ready")) == 5)
    delays = [one.detail.split(" s")[0] for one in watched.happened if one.event == "restarting"]
    assert delays == ["in 0.02", "in 0.04", "in 0.05", "in 0.05"]
    assert {one.detail for one in watched.happened if one.event == "died"} == {"signal 9"}


async def test_the_record_says_how_the_run_before_ended_unless_it_was_asked_to(tmp_path) -> None:
    async with Watched(tmp_path, child(tmp_path, "one")) as watched:
        said = []
        for starts, number in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL), 1):
            await watched.until(lambda: len(watched.of("ready")) == starts)  # noqa: B023
            said += [record.ended for record in read_records(watched.run)]
            os.kill(watched.pid("one"), number)
        await watched.until(lambda: len(watched.of("ready")) == 4)
        (status,) = statuses(watched.run)
    assert (said, status.ended, status.restarts) == (["", "signal 9", ""], "signal 9", 3)


async def test_a_long_ready_child_starts_again_from_the_first_delay(tmp_path) -> None:
    async with Watched(tmp_path, child(tmp_path, "one"), backoff=Backoff(first=0.02, last=1, stable=0.0)) as watched:
        for restarts in range(3):
            await watched.until(lambda: len(watched.of("ready")) == restarts + 1)  # noqa: B023
            os.kill(watched.pid("one"), signal.SIGKILL)
        await watched.until(lambda: len(watched.of("restarting")) == 3)
    assert all("in 0.02" in one.detail for one in watched.happened if one.event == "restarting")


async def test_a_child_that_never_becomes_ready_ends_the_start_with_its_last_words(tmp_path) -> None:
    broken = child(tmp_path, "broken", "import sys; print('the model file is torn'); sys.exit(7)")
    watched = Watched(tmp_path, child(tmp_path, "fine"), broken)
    with pytest.raises(SetupError, match="the model file is torn") as caught:
        await asyncio.wait_for(watched.supervisor.supervise(watched.stop), 20)
    assert caught.value.where == "broken"
    assert "broken.log" in str(caught.value.next_step)
    assert len(watched.of("starting")) == 2
    assert watched.of("stopped") == ["fine"]


async def test_other_early_deaths_are_tried_again_a_few_times(tmp_path) -> None:
    watched = Watched(tmp_path, child(tmp_path, "shaky", "import sys; sys.exit(1)"), first_attempts=3)
    with pytest.raises(SetupError, match="exit code 1"):
        await asyncio.wait_for(watched.supervisor.supervise(watched.stop), 20)
    assert len(watched.of("starting")) == 3


async def test_a_child_that_hangs_before_it_is_ready_is_killed(tmp_path) -> None:
    mute = child(tmp_path, "mute", "import time; time.sleep(60)", ready_seconds=0.2)
    watched = Watched(tmp_path, mute, first_attempts=1)
    with pytest.raises(SetupError, match="signal 9"):
        await asyncio.wait_for(watched.supervisor.supervise(watched.stop), 20)
    assert watched.of("killed") == ["mute"]


async def test_a_program_that_does_not_exist_is_said(tmp_path) -> None:
    absent = ChildSpec("absent", ("/no/such/program",), FileExists(tmp_path / "x"))
    watched = Watched(tmp_path, absent)
    with pytest.raises(SetupError, match="cannot be run"):
        await watched.supervisor.supervise(watched.stop)


async def test_a_child_that_does_not_drain_is_killed_with_its_group(tmp_path) -> None:
    stubborn = """
        import os, signal, subprocess, sys
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        grandchild = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        open(f"{sys.argv[2]}/{sys.argv[1]}.ready", "w").write(str(grandchild.pid))
        while True:
            signal.pause()
    """
    spec = child(tmp_path, "stubborn", stubborn, drain_seconds=0.2)
    async with Watched(tmp_path, spec) as watched:
        await watched.until(lambda: watched.of("ready"))
        grandchild = int((tmp_path / "stubborn.ready").read_text())
        assert started_ticks(grandchild) is not None
    assert watched.of("killed") == ["stubborn"]
    async with asyncio.timeout(5):
        while started_ticks(grandchild) is not None:
            await asyncio.sleep(0.01)


async def test_a_second_stop_kills_at_once(tmp_path) -> None:
    deaf = CHILD.replace("signal.signal(signal.SIGTERM, end)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    async with Watched(tmp_path, child(tmp_path, "deaf", deaf, drain_seconds=60)) as watched:
        await watched.until(lambda: watched.of("ready"))
        watched.stop.set()
        await watched.until(lambda: watched.of("draining"))
        watched.hurry.set()
        await asyncio.wait_for(watched.task, 10)
    assert watched.of("killed") == ["deaf"]


async def test_a_second_supervisor_is_refused_and_the_first_untouched(tmp_path) -> None:
    async with Watched(tmp_path, child(tmp_path, "one")) as watched:
        await watched.until(lambda: watched.of("ready"))
        second = Watched(tmp_path, child(tmp_path, "one"))
        with pytest.raises(SetupError, match=f"already up .process {os.getpid()}."):
            await second.supervisor.supervise(second.stop)
        assert second.happened == []
        assert started_ticks(watched.pid("one")) is not None
    async with Watched(tmp_path, child(tmp_path, "one")) as again:
        await again.until(lambda: again.of("ready"))


async def test_a_taken_port_is_said_before_anything_starts(tmp_path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        watched = Watched(tmp_path, child(tmp_path, "one", listens=(listener.getsockname(),)))
        with pytest.raises(SetupError, match=f"already in use by process {os.getpid()} ") as caught:
            await watched.supervisor.supervise(watched.stop)
    assert watched.happened == []
    assert "antiphon.toml" in str(caught.value.next_step)


async def test_a_host_that_is_not_ours_is_said(tmp_path) -> None:
    watched = Watched(tmp_path, child(tmp_path, "one", listens=(("192.0.2.1", 8700),)))
    with pytest.raises(SetupError, match="cannot be used"):
        await watched.supervisor.supervise(watched.stop)


async def test_children_of_a_killed_supervisor_are_ended_by_the_next(tmp_path) -> None:
    code = f"""
        import asyncio, sys
        from pathlib import Path
        from antiphon.operations.children import ChildSpec, FileExists
        from antiphon.operations.supervisor import Supervisor
        spec = ChildSpec("one", (sys.executable, "-c", {CHILD!r}, "one", {str(tmp_path)!r}),
                         FileExists(Path({str(tmp_path)!r}) / "one.ready"))
        folder = Path({str(tmp_path)!r})
        supervisor = Supervisor([spec], run=folder / "run", logs=folder / "logs", drain_order=[])
        asyncio.run(supervisor.supervise(asyncio.Event()))
    """
    killed = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    async with asyncio.timeout(20):
        while not (tmp_path / "one.ready").exists() or not read_records(tmp_path / "run"):
            await asyncio.sleep(0.01)
    orphan = read_records(tmp_path / "run")[0].pid
    killed.kill()
    killed.wait()
    assert started_ticks(orphan) is not None
    async with Watched(tmp_path, child(tmp_path, "one")) as watched:
        await watched.until(lambda: watched.of("ready"))
        assert watched.of("orphan_ended") == ["one"]
        assert started_ticks(orphan) is None
        assert watched.pid("one") != orphan


async def test_readiness_over_a_socket_and_over_http_and_a_left_over_socket(tmp_path) -> None:
    path = tmp_path / "one.sock"
    left_over = socket.socket(socket.AF_UNIX)
    left_over.bind(str(path))
    left_over.close()
    port = free_port()
    server = """
        import asyncio, sys
        from antiphon.core.supervision import inherited_listeners
        async def main():
            stop = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(15, stop.set)
            answers = iter([b"503 no", b"200 ok"])
            async def answer(reader, writer):
                asked = await reader.readuntil(b"\\r\\n\\r\\n")
                # What it needs elsewhere is away for good, which a new start would not change.
                said = next(answers, b"200 ok") if b" /healthz " in asked else b"503 no"
                writer.write(b"HTTP/1.1 " + said + b"\\r\\ncontent-length: 0\\r\\n\\r\\n")
                await writer.drain()
                writer.close()
            if sys.argv[1] == "one":
                server = await asyncio.start_unix_server(answer, PATH)
            else:
                [listener] = inherited_listeners()
                server = await asyncio.start_server(answer, sock=listener)
            await stop.wait()
        asyncio.run(main())
    """.replace("PATH", repr(str(path)))
    one = child(tmp_path, "one", server, ready=SocketAnswers(path), sockets=(path,))
    address = ("127.0.0.1", port)
    two = child(tmp_path, "two", server, ready=HttpAnswers(*address), nice=15, after=("one",), listens=(address,))
    async with Watched(tmp_path, one, two) as watched:
        await watched.until(lambda: len(watched.of("ready")) == 2)
        assert os.getpriority(os.PRIO_PROCESS, watched.pid("two")) == 15
        # Where Linux weighs sessions against each other, that of a process gives way as the process does.
        assert session_nice(watched.pid("two")) in (15, None)
        assert session_nice(watched.pid("one")) in (0, None)
    assert not path.exists()


async def test_a_stop_before_the_first_child_is_ready_leaves_nothing(tmp_path) -> None:
    slow = child(tmp_path, "slow", "import signal, sys; print('x', flush=True); signal.pause()", drain_seconds=5)
    async with Watched(tmp_path, slow, child(tmp_path, "after", after=("slow",))) as watched:
        await watched.until(lambda: (tmp_path / "run" / "slow.pid").exists())
        pid = watched.pid("slow")
    assert watched.of("starting") == ["slow"]
    assert started_ticks(pid) is None


def test_the_delay_is_bounded() -> None:
    backoff = Backoff(first=0.25, last=15.0)
    delays = [backoff.delay(failures) for failures in range(1, 100)]
    assert delays[:3] == [0.25, 0.5, 1.0]
    assert delays == sorted(delays)
    assert delays[-1] == 15.0


# Shows signs of life from its event loop, has a child of its own that ends with it, and says both pids.
SUPERVISED = """
import asyncio, os, subprocess, sys
from antiphon.core.supervision import Supervision
supervision = Supervision.inherited()
code = "import os, signal, sys; from antiphon.core.child_process import end_with_parent; "
code += "end_with_parent(int(sys.argv[1]), signal.SIGKILL); print('x', flush=True); signal.pause()"
grandchild = subprocess.Popen(
    [sys.executable, "-c", code, str(os.getpid())], stdout=subprocess.PIPE, start_new_session=True
)
grandchild.stdout.readline()
async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(15, stop.set)
    beating = asyncio.create_task(supervision.beat())
    with open(f"{sys.argv[2]}/{sys.argv[1]}.partial", "w") as told:
        told.write(f"{os.getpid()} {grandchild.pid}")
    os.rename(f"{sys.argv[2]}/{sys.argv[1]}.partial", f"{sys.argv[2]}/{sys.argv[1]}.ready")
    await stop.wait()
asyncio.run(main())
grandchild.kill()
"""


async def gone(*pids: int) -> None:
    async with asyncio.timeout(20):
        while any(started_ticks(pid) is not None for pid in pids):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped by SIGSTOP"])
async def test_children_and_grandchildren_end_with_a_killed_supervisor(tmp_path, stopped) -> None:
    code = f"""
        import asyncio, sys
        from pathlib import Path
        from antiphon.operations.children import ChildSpec, FileExists
        from antiphon.operations.supervisor import Supervisor
        folder = Path({str(tmp_path)!r})
        spec = ChildSpec("one", (sys.executable, "-c", {SUPERVISED!r}, "one", str(folder)),
                         FileExists(folder / "one.ready"))
        asyncio.run(Supervisor([spec], run=folder / "run", logs=folder / "logs", drain_order=[])
            .supervise(asyncio.Event()))
    """
    killed = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    async with asyncio.timeout(20):
        while not (tmp_path / "one.ready").exists():
            await asyncio.sleep(0.01)
    pids = [int(pid) for pid in (tmp_path / "one.ready").read_text().split()]
    assert all(started_ticks(pid) is not None for pid in pids)
    if stopped:
        os.kill(pids[0], signal.SIGSTOP)
    killed.kill()
    killed.wait()
    await gone(*pids)


async def test_where_the_kernel_does_not_say_so_the_end_of_the_socket_does(tmp_path) -> None:
    ours, its = socket.socketpair()
    with ours:
        started = subprocess.Popen(
            [sys.executable, "-c", SUPERVISED, "one", str(tmp_path)],
            env=os.environ | {SUPERVISOR: f"{os.getpid()}:{its.fileno()}"},
            pass_fds=(its.fileno(),),
            start_new_session=True,
        )
        its.close()
        assert (await asyncio.to_thread(ours.recv, 1)) == b"."  # and its supervisor, this process, goes on
    assert await asyncio.to_thread(started.wait, 20) == -signal.SIGKILL


async def test_a_child_whose_supervisor_died_before_it_could_say_so_ends(tmp_path) -> None:
    ours, its = socket.socketpair()
    with ours, its:
        started = subprocess.Popen(
            [sys.executable, "-c", SUPERVISED, "one", str(tmp_path)],
            env=os.environ | {SUPERVISOR: f"{2**22 + 1}:{its.fileno()}"},  # past the highest pid there can be
            pass_fds=(its.fileno(),),
        )
        assert await asyncio.to_thread(started.wait, 20) == 128 + signal.SIGKILL
    assert not (tmp_path / "one.ready").exists()


async def test_what_hangs_is_killed_and_started_again_and_what_beats_is_left_alone(tmp_path) -> None:
    hanging = child(tmp_path, "hanging", SUPERVISED, silence=2.5)
    beating = child(tmp_path, "beating", SUPERVISED, silence=2.5)
    async with Watched(tmp_path, hanging, beating) as watched:
        await watched.until(lambda: len(watched.of("ready")) == 2)
        os.kill(watched.pid("hanging"), signal.SIGSTOP)
        await watched.until(lambda: watched.of("ready").count("hanging") == 2)
        assert watched.of("hung") == ["hanging"]
        assert watched.of("died") == ["hanging"]
        assert "no sign of life for 2 s" in next(one.detail for one in watched.happened if one.event == "hung")


async def test_of_two_that_begin_on_one_port_one_is_told_by_what_it_is_taken(tmp_path) -> None:
    address = ("127.0.0.1", free_port())
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    both = [Watched(folder, child(folder, "one", listens=(address,))) for folder in folders]
    async with both[0], both[1]:
        async with asyncio.timeout(20):
            while not any(one.task.done() for one in both):
                await asyncio.sleep(0.01)
        loser, winner = sorted(both, key=lambda one: not one.task.done())
        with pytest.raises(SetupError, match=rf"Port {address[1]} on 127.0.0.1 is already in use by process \d+ "):
            await loser.task
        assert loser.happened == []
        await winner.until(lambda: winner.of("ready"))


async def test_connections_wait_while_what_serves_them_is_started_again(tmp_path) -> None:
    server = """
        import socket, sys
        from antiphon.core.supervision import inherited_listeners
        [listener] = inherited_listeners()
        listener.setblocking(True)
        open(f"{sys.argv[2]}/{sys.argv[1]}.ready", "w").close()
        while True:
            connection, _ = listener.accept()
            if connection.recv(1) == b"x":
                sys.exit(9)
            connection.sendall(b"y")
            connection.close()
    """
    address = ("127.0.0.1", free_port())

    def ask(word: bytes) -> bytes:
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(word)
            return connection.recv(1)

    spec = child(tmp_path, "one", server, listens=(address,))
    async with Watched(tmp_path, spec, backoff=Backoff(first=0.3, last=0.3)) as watched:
        await watched.until(lambda: watched.of("ready"))
        assert await asyncio.to_thread(ask, b"x") == b""
        await watched.until(lambda: watched.of("died"))
        assert await asyncio.to_thread(ask, b"?") == b"y"
        watched.stop.set()
        await watched.task
        with pytest.raises(ConnectionError):
            await asyncio.to_thread(ask, b"?")


async def test_the_processes_of_a_project_that_was_copied_are_not_ended(tmp_path) -> None:
    original, copied = tmp_path / "original", tmp_path / "copied"
    original.mkdir()
    async with Watched(original, child(original, "one")) as watched:
        await watched.until(lambda: watched.of("ready"))
        shutil.copytree(original, copied)
        assert await end_left_over(copied / "run") == ()
        assert started_ticks(watched.pid("one")) is not None


def test_a_name_is_listened_on_at_every_address_that_the_machine_has() -> None:
    port = free_port()
    listeners = listen("localhost", port)
    try:
        assert ("127.0.0.1", port) in [one.getsockname()[:2] for one in listeners]
        with pytest.raises(SetupError, match="already in use"):
            listen("127.0.0.1", port)
    finally:
        for one in listeners:
            one.close()
