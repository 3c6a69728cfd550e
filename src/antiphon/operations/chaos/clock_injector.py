"""Injector of clock skew: one process reads another time of day, and the machine's clock is left alone.

A process reads the clock by functions that the kernel maps into it, the vDSO (``vdso(7)``). They are exchanged in the
memory of that process for ones that ask the kernel and add the skew, as Chaos Mesh's TimeChaos does
(https://chaos-mesh.org/docs/simulate-time-chaos-on-kubernetes/). So nothing in the product can shift its clock, and
who may do it is who may debug the process (``ptrace(2)``).

Invariants: the exchanged functions hold the moment at which they stop adding anything, so that a skew ends with its
time whatever becomes of this process. Code is exchanged while every thread stands still outside of it. What was there
is what this process has itself, since the kernel maps one vDSO into all.
"""

from __future__ import annotations

import math
import os
import platform
import signal
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import msgspec

from antiphon.core.errors import NotFoundError, UnavailableError
from antiphon.operations.chaos.faults import ClockSkew, seconds_of, skew_seconds
from antiphon.operations.chaos.injectors import await_stop, process_descriptor, running_record
from antiphon.operations.processes import ProcessRecord, is_running, read_records

_CLEAR_SECONDS = 2.0
"""Time within which a process is met at a moment at which none of its threads reads the clock."""
_DYNSYM = 11
"""Type of the section with an ELF file's dynamic symbols (SHT_DYNSYM)."""
_NEEDED = "__vdso_clock_gettime"


class VirtualObject(msgspec.Struct, frozen=True):
    """The vDSO as it is mapped into a process: its address, its bytes."""

    address: int
    content: bytes

    @classmethod
    def of(cls, process: int | str, memory: int) -> VirtualObject:
        """Reads that of a process; raises ``UnavailableError`` when it has none."""
        for line in Path(f"/proc/{process}/maps").read_text(encoding="utf-8").splitlines():
            if line.endswith("[vdso]"):
                begin, end = (int(text, 16) for text in line.split()[0].split("-"))
                return cls(begin, os.pread(memory, end - begin, begin))
        raise UnavailableError(
            "The kernel maps no clock into the process.", where="clock", next_step="Leave this experiment out here."
        )

    def functions(self) -> Mapping[str, tuple[int, int]]:
        """Offset and size of each function, by name (https://refspecs.linuxfoundation.org/elf/elf.pdf)."""
        found, content = {}, self.content
        sections = struct.unpack_from("<Q", content, 40)[0]
        size, count = struct.unpack_from("<HH", content, 58)
        header = "<IIQQQQI"
        for number in range(count):
            _, kind, _, _, offset, length, link = struct.unpack_from(header, content, sections + number * size)
            if kind == _DYNSYM:
                names = struct.unpack_from(header, content, sections + link * size)[4]
                for symbol in range(offset, offset + length, 24):
                    name, _, _, _, value, extent = struct.unpack_from("<IBBHQQ", content, symbol)
                    found[content[names + name :].partition(b"\0")[0].decode()] = (value, extent)
        return found


def skewed_functions(seconds: int, until: int) -> Mapping[str, bytes]:
    """Machine code (x86-64) of the functions that tell the time: the kernel's, and ``seconds`` more until a moment.

    Args:
        until: Unix time of the machine's own clock, from which on nothing is added.
    """
    # The kernel takes r11 for itself, so it is set after the call.
    bound, more = b"\x49\xbb" + struct.pack("<q", until), struct.pack("<i", seconds)  # mov r11, until
    of_memory = {
        # clock_gettime(edi = clock, rsi): only of the clock 0, CLOCK_REALTIME. test edi, edi; jnz end
        _NEEDED: (228, b"\x85\xff\x75", bound + b"\x4c\x39\x1e\x7d\x07\x48\x81\x06" + more),
        # gettimeofday(rdi, rsi), either of which may be null. test rdi, rdi; jz end
        "__vdso_gettimeofday": (96, b"\x48\x85\xff\x74", bound + b"\x4c\x39\x1f\x7d\x07\x48\x81\x07" + more),
    }
    found = {}
    for name, (call, test, add) in of_memory.items():  # add: cmp [memory], r11; jge end; add qword [memory], more
        rest = test + bytes([len(add)]) + add
        # mov eax, call; syscall; test eax, eax; jnz end; …; end: ret
        found[name] = b"\xb8" + struct.pack("<i", call) + b"\x0f\x05\x85\xc0\x75" + bytes([len(rest)]) + rest + b"\xc3"
    # time(rdi): mov eax, 201; syscall; cmp rax, r11; jge +6; add rax, more; test rdi, rdi; jz +3; mov [rdi], rax; ret
    found["__vdso_time"] = (
        b"\xb8\xc9\0\0\0\x0f\x05"
        + bound
        + b"\x4c\x39\xd8\x7d\x06\x48\x05"
        + more
        + b"\x48\x85\xff\x74\x03\x48\x89\x07\xc3"
    )
    return found


class ClockInjector:
    """Sets the clock of one process apart from the machine's.

    Args:
        run: the folder of process records; ``target``: the record's name.
    """

    def __init__(self, fault: ClockSkew, run: Path, target: str) -> None:
        self._fault = fault
        self._run = run
        self._target = target
        self._descriptor = self._memory = -1
        self._pid = self._until = 0
        self._exchanged = False

    def begin(self) -> tuple[str, ...]:
        """Set it apart; what was touched, in words.

        Raises:
            NotFoundError: the process does not run. UnavailableError: its memory cannot be written here, or it reads
                the clock all the time.
        """
        record = running_record(self._run, self._target)
        self._memory = _opened(record)
        # Looked up afterwards: it is the recorded process now, so it was when its memory was opened.
        self._pid, self._descriptor = record.pid, process_descriptor(record)
        self._until = math.ceil(time.time() + seconds_of(self._fault))
        with self._still(outside=True):
            self._exchanged = True
            self._exchange(skewed_functions(skew_seconds(self._fault), self._until))
        return (f"{record.name} (process {record.pid})",)

    def tick(self) -> float:
        return 3_600.0

    def end(self) -> None:
        """Give the process the machine's clock back."""
        if self._exchanged:
            # A process that has ended has no clock; one that is met reading it all the time keeps code without a skew.
            with suppress(UnavailableError, OSError), self._still(outside=False):
                self._exchange(skewed_functions(0, self._until))
            with suppress(UnavailableError, OSError), self._still(outside=True):
                self._exchange({})
            self._exchanged = False
        for descriptor in (self._memory, self._descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._memory = self._descriptor = -1

    def _exchange(self, functions: Mapping[str, bytes]) -> None:
        """Write each function, or what the kernel has there for one that is not named."""
        here, there = own_object(), VirtualObject.of(self._pid, self._memory)
        places = here.functions()
        for name in skewed_functions(0, 0):
            offset, size = places.get(name, (0, 0))
            code = functions.get(name, b"")
            if len(code) <= size:
                os.pwrite(self._memory, code + here.content[offset + len(code) : offset + size], there.address + offset)

    @contextmanager
    def _still(self, *, outside: bool) -> Iterator[None]:
        """Every thread of the process stands still in the block; ``outside``: of the functions too."""
        there, deadline = VirtualObject.of(self._pid, self._memory), time.monotonic() + _CLEAR_SECONDS
        places = range(there.address, there.address + len(there.content))
        while True:
            signal.pidfd_send_signal(self._descriptor, signal.SIGSTOP)
            try:
                await_stop(self._pid)
                at = [*_instructions(self._pid)]
                if None not in at and not (outside and any(each in places for each in at)):
                    yield
                    return
            finally:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._descriptor, signal.SIGCONT)
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{self._target} reads the clock all the time.", where=self._target, next_step="Try again later."
                )
            time.sleep(0.002)


@cache
def own_object() -> VirtualObject:
    """The vDSO of this process, as the kernel has it."""
    descriptor = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return VirtualObject.of("self", descriptor)
    finally:
        os.close(descriptor)


def clock_obstacle(run: Path) -> str:
    """The reason why no process of this project can be given another clock here; empty without one."""
    try:
        for record in read_records(run):
            if is_running(record):
                os.close(_opened(record))
                break
    except (NotFoundError, UnavailableError) as error:
        return str(error)
    return ""


def _opened(record: ProcessRecord) -> int:
    """A descriptor of a process's memory; raises ``UnavailableError`` where there is none to be had."""
    if platform.machine() != "x86_64" or struct.calcsize("P") != 8:
        raise UnavailableError(
            f"Clocks of processes are not set apart on {platform.machine()}.", where="clock",
            next_step="Run this experiment on x86-64.",
        )  # fmt: skip
    try:
        _, size = own_object().functions().get(_NEEDED, (0, 0))
        if size < len(skewed_functions(0, 0)[_NEEDED]):
            raise UnavailableError(
                "The kernel's clock cannot be exchanged in a process.", where="clock",
                next_step="Leave this experiment out here.",
            )  # fmt: skip
        return os.open(f"/proc/{record.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(
            f"The process {record.name!r} has ended.", where=record.name, next_step="See `antiphon status`."
        ) from None
    except OSError as error:
        raise UnavailableError(
            f"The memory of {record.name} cannot be written: {error.strerror}.", where=record.name,
            next_step="Run the command as root, or with `sysctl kernel.yama.ptrace_scope=0` as the processes' user.",
        ) from error  # fmt: skip


def _instructions(pid: int) -> Iterator[int | None]:
    """Addresses at which the threads of a process stand still (``/proc/PID/task/TID/syscall``); ``None``: it runs."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            last = (task / "syscall").read_text(encoding="ascii").split()[-1]
            yield None if last == "running" else int(last, 16)
