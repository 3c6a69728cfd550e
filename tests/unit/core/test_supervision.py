"""A process without a supervisor begins again in its place, and its sockets go on listening."""

from __future__ import annotations

import socket
import subprocess
import sys

import msgspec
import pytest

from antiphon.core.settings_processes import SupervisionSettings

AGAIN = """
import socket, sys
from antiphon.core.supervision import Supervision, has_begun_again, inherited_listeners
again = has_begun_again()
assert not has_begun_again()
listeners = inherited_listeners()
if listeners is None:
    assert not again
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    supervision = Supervision.inherited()
    supervision.keep([listener])
    listener.close()
    print(port, flush=True)
    sys.stdin.readline()
    supervision.begin_again()
assert again
connection, _ = listeners[0].accept()
connection.sendall(b"again")
"""


def test_connections_wait_while_a_process_begins_again() -> None:
    command = [sys.executable, "-c", AGAIN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        with socket.create_connection(("127.0.0.1", int(process.stdout.readline())), timeout=20) as client:
            process.stdin.write("\n")
            process.stdin.flush()
            assert client.recv(16) == b"again"
        assert process.wait(20) == 0


def test_a_silence_has_a_bound_or_none() -> None:
    assert SupervisionSettings().silence_seconds == 60.0
    assert SupervisionSettings(silence="off").silence_seconds is None
    assert msgspec.convert({"silence": "off"}, SupervisionSettings).silence == "off"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"silence": "0s"}, SupervisionSettings)
