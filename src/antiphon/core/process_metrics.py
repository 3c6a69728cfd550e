"""``/metrics`` of a process that serves no HTTP of its own, and where Prometheus finds the processes of a project.

A process listens on a free port of the loopback interface and says so in ``NAME.metrics.json`` of the project's ``run``
folder, in the form of Prometheus' file-based service discovery: ``run/*.metrics.json`` are all of a machine.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, Info, ProcessCollector, start_http_server

from antiphon.core.disk import put_private

LOOPBACK = "127.0.0.1"


class _Targets(msgspec.Struct, frozen=True):
    targets: tuple[str, ...]
    labels: dict[str, str]


def describe_process(registry: CollectorRegistry) -> CollectorRegistry:
    """Add what every process tells: its version, and what of the machine it uses."""
    built = Info("antiphon_build", "The version that runs.", registry=registry)
    built.info({"version": version("antiphon"), "python": platform.python_version()})
    ProcessCollector(registry=registry)
    return registry


def addresses(run_folder: Path) -> dict[str, str]:
    """Returns the URL of the ``/metrics`` of each process of this machine, by name."""
    found: dict[str, str] = {}
    for file in sorted(run_folder.glob("*.metrics.json")):
        with suppress(FileNotFoundError):  # It ends just now.
            for one in msgspec.json.decode(file.read_bytes(), type=list[_Targets]):
                found[one.labels["process"]] = f"{one.labels['__scheme__']}://{one.targets[0]}/metrics"
    return found


@contextmanager
def served_metrics(registry: CollectorRegistry, run_folder: Path, name: str) -> Iterator[None]:
    """Serve a registry while the block lasts, to who is on this machine."""
    server, _ = start_http_server(0, LOOPBACK, registry)
    try:
        with announced(run_folder, name, f"{LOOPBACK}:{server.server_port}"):
            yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def announced(run_folder: Path, name: str, address: str, scheme: str = "http") -> Iterator[None]:
    """Say while the block lasts where the ``/metrics`` of a process are."""
    run_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    place = run_folder / f"{name}.metrics.json"
    put_private(place, msgspec.json.encode([_Targets((address,), {"__scheme__": scheme, "process": name})]))
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
