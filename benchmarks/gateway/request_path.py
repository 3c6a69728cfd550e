"""Counts the source files and the typed values that one chat request passes in the gateway and the engine.

Run ``python -m benchmarks.gateway.request_path [--source TREE] [--record]``. A new project of the blueprint ``desk`` is
started by ``antiphon up`` of the tree (this one by default, so that two states can be compared), asked twice to warm it
up, and once more with a profile function in every process. A file counts when a function of it runs between the
request and the end of its response; a typed value counts when it is passed to a function or returned by one: a msgspec
struct, dataclass or named tuple of the package. The profile knows nothing of the product but its name.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

from tests.harness.ports import free_port
from tests.harness.ungated import declare_ungated

from antiphon.core.child_process import start_child

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results" / "request_path.jsonl"
LIMIT = 240.0
ROUNDS = 5
PARTS = ("files", "values")
# Read by every Python process that is started with this folder on its path.
_PROFILE = """
import json, os, signal, sys, threading
def _install():
    files, values, on = set(), set(), [False]
    def typed(value):
        kind = type(value)
        if str(kind.__module__).startswith("antiphon.") and (
            hasattr(kind, "__struct_fields__") or hasattr(kind, "__dataclass_fields__") or hasattr(kind, "_fields")):
            values.add(kind.__module__ + "." + kind.__qualname__)
    def profile(frame, event, argument):
        if not on[0] or event not in ("call", "return"):
            return
        name = frame.f_code.co_filename
        if "/antiphon/" not in name:
            return
        files.add(name.rpartition("/antiphon/")[2])
        if event == "call":
            for value in list(frame.f_locals.values()):
                typed(value)
        else:
            typed(argument)
    def start(*_):
        files.clear()
        values.clear()
        on[0] = True
        sys.setprofile(profile)
    def stop(*_):
        on[0] = False
        sys.setprofile(None)
        folder = os.environ["REQUEST_PATH_OUT"]
        report = {"argv": sys.argv, "files": sorted(files), "values": sorted(values)}
        with open(f"{folder}/{os.getpid()}.partial", "w") as out:
            json.dump(report, out)
        os.replace(f"{folder}/{os.getpid()}.partial", f"{folder}/{os.getpid()}.json")
    threading.setprofile(lambda *a: profile(*a))
    signal.signal(signal.SIGUSR1, start)
    signal.signal(signal.SIGUSR2, stop)
if os.environ.get("REQUEST_PATH_OUT"):
    _install()
"""


def main() -> None:
    """Prints what each process passed and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="folder that holds the package")
    parser.add_argument("--record", action="store_true", help="keep the JSON line")
    parser.add_argument("--names", action="store_true", help="print every file and value")
    options = parser.parse_args()
    found = measure(options.source.resolve())
    line: dict[str, object] = {"benchmark": "request_path", "at": datetime.now(UTC).isoformat(timespec="seconds")}
    for process, parts in found.items():
        print(f"{process:<8} {len(parts['files']):>4} files {len(parts['values']):>4} typed values")
        if options.names:
            print("  " + "\n  ".join([*parts["files"], *parts["values"]]))
        line[process] = {"files": len(parts["files"]), "values": len(parts["values"])}
    text = json.dumps(line)
    if options.record:
        with RESULTS.open("a") as kept:
            kept.write(text + "\n")
    print(text)


def measure(source: Path) -> dict[str, dict[str, list[str]]]:
    """Returns files and typed values by process (gateway, engine).

    Raises:
        SystemExit: the platform did not start or did not answer in time.
    """
    with tempfile.TemporaryDirectory(prefix="antiphon-path-") as folder:
        root, out = Path(folder), Path(folder) / "out"
        out.mkdir()
        (root / "sitecustomize.py").write_text(_PROFILE)
        environment = os.environ | {"PYTHONPATH": f"{root}:{source}", "REQUEST_PATH_OUT": str(out)}
        command = [sys.executable, "-m", "antiphon.cli.main"]
        port = free_port()
        subprocess.run([*command, "init", "probe", "--port", str(port), "--in", folder], env=environment, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        project = root / "probe"
        declare_ungated(project, "a benchmark asks at once")
        with (root / "up.log").open("w") as log:
            up = start_child([*command, "up"], cwd=project, env=environment, stdout=log, stderr=log)
        try:
            _ask_until_answered(project, port)
            _ask(project, port)
            rounds = [_profile(project, port, _profiled(up.pid), out) for _ in range(ROUNDS)]
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(60)
    # What ran in every round belongs to the request; the rest are timers that came by.
    return {
        process: {part: sorted(set.intersection(*(each[process][part] for each in rounds))) for part in PARTS}
        for process in sorted(rounds[0], reverse=True)
    }


def _profile(project: Path, port: int, pids: list[int], out: Path) -> dict[str, dict[str, set[str]]]:
    """Asks once under the profile; returns files and values by process."""
    for report in out.glob("*.json"):
        report.unlink()
    _signal(pids, signal.SIGUSR1)
    time.sleep(0.3)
    _ask(project, port)
    _signal(pids, signal.SIGUSR2)
    deadline = time.monotonic() + 20
    while len(list(out.glob("*.json"))) < len(pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    reports = [json.loads(path.read_text()) for path in out.glob("*.json")]
    return {
        "engine" if "engine" in report["argv"][0] else "gateway": {part: set(report[part]) for part in PARTS}
        for report in reports
    }


def _profiled(supervisor: int) -> list[int]:
    """Process ids of gateway and engine below the supervisor."""
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            arguments = (path / "cmdline").read_text().replace("\0", " ")
        except (OSError, IndexError):
            continue
        if parent == supervisor and ("antiphon.app.gateway" in arguments or "antiphon.engine" in arguments):
            pids.append(int(path.name))
    return pids


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def _ask(project: Path, port: int) -> None:
    body = {
        "model": "desk",
        "entity": {"shop": "bakery"},
        "messages": [{"role": "user", "content": f"Will my order be on time? {time.time()}"}],
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {(project / '.antiphon/keys/admin.key').read_text().strip()}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        response.read()


def _ask_until_answered(project: Path, port: int) -> None:
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            return _ask(project, port)
        except OSError as error:
            if time.monotonic() > deadline:
                reason = error.read().decode() if isinstance(error, urllib.error.HTTPError) else str(error)
                raise SystemExit(f"The platform did not answer within {LIMIT:g} s: {reason}") from None
            time.sleep(1)


if __name__ == "__main__":
    main()
