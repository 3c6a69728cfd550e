"""The processes that are measured: the upstream, our gateway before it and before our engine, LiteLLM's proxy."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from benchmarks.gateway.load import Target
from tests.harness.ports import free_port

from antiphon.core.child_process import start_child
from antiphon.definitions.degradation import MAIN
from antiphon.services.engines import commands
from antiphon.services.governance.identity import first_key
from antiphon.services.project.store import Store

ROOT = Path(__file__).parents[2]
MODEL = "simulated"
PACED = "paced-200"
START_SECONDS = 120.0

LITELLM_SETTINGS = """model_list:
@MODELS@
general_settings:
  master_key: @KEY@
  disable_error_logs: true
litellm_settings:
  request_timeout: 600
  set_verbose: false
  json_logs: true
  drop_params: true
"""
LITELLM_MODEL = """- model_name: @NAME@
  litellm_params:
    model: openai/@NAME@
    api_base: http://127.0.0.1:@PORT@/v1
    api_key: nothing
"""


class Contender(msgspec.Struct, frozen=True):
    """A gateway that is measured, and its process."""

    name: str
    target: Target
    pid: int

    def asked_for(self, model: str) -> Target:
        """The same, asked for another model."""
        return msgspec.structs.replace(self.target, model=model)


class Cores(msgspec.Struct, frozen=True):
    """Who runs where: a gateway has ``gateway`` for itself, the load generator, the upstream and the engine share
    ``others``. Without a second core nothing is bound."""

    gateway: int | None
    others: int | None

    @staticmethod
    def of_this_machine() -> Cores:
        found = sorted(os.sched_getaffinity(0))
        if len(found) < 2 or shutil.which("taskset") is None:
            return Cores(None, None)
        return Cores(found[0], found[1])

    def prefix(self, core: int | None) -> tuple[str, ...]:
        return () if core is None else ("taskset", "-c", str(core))


def environment() -> dict[str, str]:
    """Of every process: our source, and no tracing (LiteLLM traces nothing either unless it is told to)."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")]))),
        "OTEL_SDK_DISABLED": "true",
    }


@contextmanager
def upstream(cores: Cores, log: Path) -> Iterator[Target]:
    """The server that both gateways stand before."""
    port = free_port()
    command = (sys.executable, "-m", "benchmarks.gateway.upstream", "--port", str(port))
    with running((*cores.prefix(cores.others), *command), log, f"http://127.0.0.1:{port}/v1/models"):
        yield Target(port, "nothing", MODEL)


@contextmanager
def over_remote(folder: Path, before: Target, cores: Cores) -> Iterator[Contender]:
    """Our gateway process before an OpenAI-compatible URL, and the process between them."""
    engine = f'kind = "remote"\nurl = "http://127.0.0.1:{before.port}/v1"\nmodels = ["{MODEL}", "{PACED}"]'
    store = project(folder, engine)
    try:
        command = (*cores.prefix(cores.others), *commands.upstream_command(store, MAIN))
        with running(command, store.paths.logs / "engine.log"), gateway(store, "antiphon, remote", cores) as made:
            yield made
    finally:
        store.close()


@contextmanager
def over_engine(
    folder: Path, cores: Cores, *, slots: int = 16, options: Sequence[str] = ()
) -> Iterator[tuple[Contender, Path]]:
    """Our gateway process before the simulated engine's process, and the engine's socket."""
    store = project(folder, f'kind = "simulated"\nmodels = ["{MODEL}"]\nslots = {slots}\ncontext = 1024')
    try:
        command = (*cores.prefix(cores.others), *commands.command(store), *options)
        with running(command, store.paths.logs / "engine.log"), gateway(store, "antiphon, engine", cores) as made:
            yield made, store.paths.engine_socket_of("engine")
    finally:
        store.close()


def project(folder: Path, engine: str, more: str = "") -> Store:
    """A project as ``antiphon init`` leaves it, with another engine, room for 2,000 answers at once and more sections.

    Raises:
        SetupError: it cannot be opened.
    """
    folder.mkdir()
    (folder / "antiphon.toml").write_text(
        f'[project]\nname = "bench"\n\n[engine]\n{engine}\n\n'
        f"[gateway]\nport = {free_port()}\nmax_in_flight = 2000\n{more}"
    )
    (folder / "definitions.py").write_text("")
    store = Store.open(folder)
    store.paths.logs.mkdir(parents=True, exist_ok=True)
    store.paths.run.mkdir(parents=True, exist_ok=True)
    first_key(store)
    return store


@contextmanager
def gateway(
    store: Store, name: str, cores: Cores, *, port: int | None = None, under: Sequence[str] = ()
) -> Iterator[Contender]:
    """The gateway process of a project, as ``antiphon up`` starts it; another one beside it has a ``port`` of its own.

    ``under`` is a command that starts it (that puts it into a control group, say).
    """
    process = "gateway" if port is None else f"gateway-{port}"
    port = port or store.settings.gateway.port
    options = ("--project", str(store.paths.root), "--name", process, "--port", str(port))
    command = (*under, *cores.prefix(cores.gateway), sys.executable, "-m", "antiphon.app.gateway", *options)
    log = store.paths.logs / f"{process}.log"
    key = (store.paths.keys / "admin.key").read_text().strip()
    with running(command, log, f"http://127.0.0.1:{port}/readyz") as pid:
        yield Contender(name, Target(port, key, MODEL), pid)


@contextmanager
def litellm(folder: Path, before: Target, cores: Cores) -> Iterator[Contender]:
    """LiteLLM's proxy as its guide for production has it.

    One worker per process, ``LITELLM_MODE=PRODUCTION``, ``LITELLM_LOG=ERROR``, ``set_verbose: false``, JSON logs, a
    master key, no callbacks, no database (so nothing is written about a request). uvicorn is its default server.

    Raises:
        SetupError: its environment cannot be made.
    """
    folder.mkdir()
    port, key = free_port(), "sk-benchmark"
    models = "".join(
        LITELLM_MODEL.replace("@NAME@", name).replace("@PORT@", str(before.port)) for name in (MODEL, PACED)
    )
    settings = folder / "config.yaml"
    settings.write_text(LITELLM_SETTINGS.replace("@KEY@", key).replace("@MODELS@", models))
    program = Path(litellm_python()).with_name("litellm")
    command = (
        str(program), "--config", str(settings), "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1",
    )  # fmt: skip
    more = {
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "PYTHONPATH": "",
    }
    live = f"http://127.0.0.1:{port}/health/liveliness"
    with running((*cores.prefix(cores.gateway), *command), folder / "litellm.log", live, more) as pid:
        yield Contender("LiteLLM", Target(port, key, MODEL), pid)


def litellm_python() -> str:
    """The Python of LiteLLM's environment, which is made if it is not there.

    Raises:
        RuntimeError: it cannot be made.
    """
    made = subprocess.run((str(ROOT / "scripts" / "litellm-environment"),), capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(made.stderr[-2_000:])
    return made.stdout.strip()


@contextmanager
def running(
    command: Sequence[str], log: Path, answers: str | None = None, more: dict[str, str] | None = None
) -> Iterator[int]:
    """A process for as long as the block lasts, once it answers a GET with 200; its process id.

    Raises:
        RuntimeError: it ended, or did not answer in time; with its last words.
    """
    with log.open("ab") as out:
        process = start_child(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment() | (more or {}), cwd=log.parent
        )
    try:
        end = time.monotonic() + START_SECONDS
        while answers is not None and not _answers(answers):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command[-1]} does not answer:\n{log.read_text(errors='replace')[-2_000:]}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2.0) as answer:
        return bool(answer.status == 200)
    return False
