"""Experiments in Chaos Toolkit's format: those that are shipped, and what is refused because it would be passed
over."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from antiphon.core.errors import InvalidInputError
from antiphon.operations.chaos.experiment import Experiment, FaultActivity, ProbeActivity
from antiphon.operations.chaos.faults import ProcessStop
from antiphon.operations.chaos.reading import load, read

SHIPPED = sorted(files("antiphon.operations").joinpath("chaos", "experiments").iterdir(), key=str)


def document(**parts: Any) -> dict[str, Any]:
    return {
        "title": "It stops",
        "description": "It stands still.",
        "configuration": {"duration": "2s", "most": 0.5},
        "steady-state-hypothesis": {"title": "It answers", "probes": [probe("ready", 200, "ready")]},
        "method": [action("stop_process", process="worker", duration="${duration}")],
    } | parts


def probe(name: str, tolerance: Any, func: str, **arguments: Any) -> dict[str, Any]:
    provider = {"type": "python", "module": "antiphon.chaos", "func": func, "arguments": arguments}
    return {"type": "probe", "name": name, "tolerance": tolerance, "provider": provider}


def action(func: str, **arguments: Any) -> dict[str, Any]:
    provider = {"type": "python", "module": "antiphon.chaos", "func": func, "arguments": arguments}
    return {"type": "action", "name": func, "provider": provider, "pauses": {"after": 1.5}}


def made(**parts: Any) -> Experiment:
    return read("it", document(**parts), "project", where="it.json")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_experiments_are_read_and_watch_all_the_time(file: Any) -> None:
    found = load(file, "shipped", {})
    assert found.faults
    assert found.strategy == "continuously"
    assert found.stop_when
    assert found.seconds <= found.max_duration
    assert json.loads(file.read_text())["version"] == "1.0.0"


def test_an_experiment_without_our_extension_is_one_of_the_format() -> None:
    found = made()
    (fault,) = found.method
    assert isinstance(fault, FaultActivity)
    assert (fault.fault, fault.after) == (ProcessStop("worker", "2s"), 1.5)
    assert (found.looks_before, found.looks_during, found.looks_after) == (True, False, True)
    assert found.radius.processes == (), "what it does not name it may not touch"
    assert found.seconds == 3.5


def test_values_of_the_configuration_are_replaced_by_those_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOST", "0.25")
    configured = document(
        configuration={"duration": "2s", "most": {"type": "env", "key": "MOST"}},
        method=[action("slow_process", process="engine", duration="${duration}", share="${most}")],
    )
    found = read("it", configured, "project", {"duration": "7s", "unknown": "1"}, where="it")
    fault: Any = found.faults[0].fault
    assert (fault.duration, fault.share) == ("7s", 0.25)


def test_probes_of_the_method_are_measured_once_and_need_no_tolerance() -> None:
    found = made(method=[{key: value for key, value in probe("lag", 0, "stream_lag").items() if key != "tolerance"}])
    assert isinstance(found.method[0], ProbeActivity)
    assert found.method[0].tolerance is None


EXTENSION = {"name": "antiphon", "stop-when": [{"probe": "ready", "for": "5s"}]}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"controls": [{"name": "x"}]}, "`controls` would be passed over"),
        ({"secrets": {"a": {}}}, "`secrets` would be passed over"),
        ({"metod": []}, "metod"),
        ({"method": [action("kill_everything")]}, "has no function 'kill_everything'"),
        ({"method": [action("kill_process")]}, "process"),
        ({"method": [action("stop_process", process="worker", duration="for ever")]}, "duration"),
        ({"method": [action("slow_process", process="engine", duration="1s", share=1.0)]}, "share"),
        (
            {"method": [{"type": "action", "name": "x", "provider": {"type": "process", "path": "rm"}}]},
            "no fault of ours",
        ),
        (
            {
                "method": [
                    {"type": "action", "name": "x", "provider": {"type": "python", "module": "os", "func": "abort"}}
                ]
            },
            "calls 'os'",
        ),
        ({"method": [action("stop_process", process="${nobody}", duration="1s")]}, "no configuration 'nobody'"),
        ({"steady-state-hypothesis": {"title": "t", "probes": [probe("a", {"type": "probe"}, "ready")]}}, "tolerance"),
        (
            {"steady-state-hypothesis": {"title": "t", "probes": [probe("a", 1, "ready"), probe("a", 2, "ready")]}},
            "one name",
        ),
        ({"extensions": [EXTENSION]}, "needs a steady state that is looked at during"),
        (
            {
                "runtime": {"hypothesis": {"strategy": "continuously"}},
                "extensions": [{"name": "antiphon", "stop-when": [{"probe": "lag"}]}],
            },
            "names a probe 'lag'",
        ),
        ({"extensions": [{"name": "antiphon", "blast-radius": {"proceses": []}}]}, "proceses"),
        ({"runtime": {"rollbacks": {"strategy": "never"}}}, "always performed"),
    ],
)
def test_what_would_be_passed_over_or_contradicts_itself_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        made(**wrong)
    assert told in str(refused.value)


def test_files_that_are_no_experiment_say_so(tmp_path) -> None:
    for name, content in (("a.json", "{"), ("b.json", "[]"), ("c.yaml", "a: [")):
        (tmp_path / name).write_text(content)
        with pytest.raises(InvalidInputError, match=name):
            load(tmp_path / name, "project", {})


def test_yaml_is_read_like_json(tmp_path) -> None:
    yaml = pytest.importorskip("yaml")
    (tmp_path / "it.yaml").write_text(yaml.safe_dump(document()))
    assert load(tmp_path / "it.yaml", "project", {}) == made()
