"""The program ``antiphon`` without its imports: a process that has them forks one for each command.

A command loads SQLAlchemy, Arrow, DuckDB and more for a second before it does anything, and the tests run hundreds.
:data:`PROGRAM` is called as the program is, with its arguments, environment, folder and standard streams, and ends as
it ends. What a long-lived process is started with (``up``, or one that is killed) is the program itself.
"""

from __future__ import annotations

import atexit
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

ADDRESS = "ANTIPHON_WARM_PROGRAM"
"""Names the socket of the process that forks; a variable of the environment."""

PROGRAM = (sys.executable, "-S", "-E", __file__)

_PRELOADED = (
    "duckdb",
    "jinja2",
    "lmdb",
    "numpy",
    "pyarrow.compute",
    "pyarrow.parquet",
    "sqlalchemy",
    "typer._adapters",
)
_WHOLE = ("antiphon.cli", "antiphon.gateway", "antiphon.services", "antiphon.batch")
"""Packages of which every module is loaded."""


@cache
def environment() -> dict[str, str]:
    """What :data:`PROGRAM` needs in its environment; starts the process that forks, which ends with this one."""
    from antiphon.core.child_process import start_child  # Not above: the calling program has no packages.

    folder = tempfile.mkdtemp(prefix="antiphon-warm-")
    address = str(Path(folder) / "socket")
    variables = {**os.environ, "OTEL_SDK_DISABLED": "true", "OPENBLAS_NUM_THREADS": "1"}
    process = start_child([sys.executable, __file__, "serve", address], stdout=subprocess.PIPE, env=variables)
    atexit.register(_end, process, folder)
    assert process.stdout.readline() == b"ready\n"
    return {ADDRESS: address}


def _end(process: subprocess.Popen[bytes], folder: str) -> None:
    import shutil

    process.terminate()
    process.communicate()
    shutil.rmtree(folder)


def shell_function() -> str:
    """What lets a script of bash call this program as ``antiphon``, and the program itself for what goes on running."""
    return f'antiphon() {{ case "${{1-}}" in up) command antiphon "$@" ;; *) {shlex.join(PROGRAM)} "$@" ;; esac; }}'


def _serve(address: str) -> None:
    import gc
    import importlib
    import pkgutil
    import signal

    import typer

    import antiphon.cli.main as program
    from antiphon.core.child_process import end_with_parent

    for package in map(importlib.import_module, _WHOLE):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    for name in _PRELOADED:
        importlib.import_module(name)
    # Typer reads every command's annotations anew whenever it is called.
    command = typer.main.get_command(program.assemble())
    program.assemble = lambda named=None: command  # type: ignore[assignment,return-value]
    gc.freeze()  # Forked processes share what is not counted anew.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = os.getpid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(16)
        print("ready", flush=True)
        while True:
            line, _ = listener.accept()
            if os.fork() == 0:
                end_with_parent(server)
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(line, program.main)
            line.close()


def _answer(line: socket.socket, main: Callable[[], None]) -> None:
    """Run one command in a process of its own, and tell how it ended; does not return."""
    import json

    from antiphon.core.child_process import end_with_parent

    said, streams, _, _ = socket.recv_fds(line, 1 << 20, 3)
    order = json.loads(said)
    own = os.getpid()
    child = os.fork()
    if child == 0:
        end_with_parent(own)
        line.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["folder"])
        sys.argv = ["antiphon", *order["arguments"]]
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            number = ("stdin", "stdout", "stderr").index(name)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False, buffering=1))
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    line.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _ask(address: str) -> int:
    import json

    order = {"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        socket.send_fds(line, [json.dumps(order).encode()], [0, 1, 2])
        line.shutdown(socket.SHUT_WR)
        return int(line.recv(16) or b"1")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        _serve(sys.argv[2])
    else:
        sys.exit(_ask(os.environ[ADDRESS]))
