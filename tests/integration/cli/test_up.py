"""``antiphon up``: the three real processes, with the simulated engine."""

from __future__ import annotations

import json
import os
import signal
from time import monotonic, sleep

import httpx2
import openai
import pytest
from tests.integration.cli.conftest import Up, run_in

from antiphon.operations.processes import started_ticks

QUESTION = {"model": "desk", "entity": {"shop": "tea"}, "messages": [{"role": "user", "content": "Late?"}]}


def key(project) -> dict[str, str]:
    file = project / ".antiphon" / "keys" / "admin.key"
    assert file.stat().st_mode & 0o077 == 0
    return {"authorization": f"Bearer {file.read_text().strip()}"}


def test_a_question_a_kill_and_the_same_state_after_ctrl_c(project, antiphon, up) -> None:
    url = f"http://127.0.0.1:{up.port}"
    answer = httpx2.post(f"{url}/v1/chat/completions", json=QUESTION, headers=key(project), timeout=30)
    assert answer.status_code == 200, answer.text
    made = answer.json()["antiphon"]["prediction"]

    asked = antiphon("ask", "desk", "And now?", "-e", "shop=tea", "--json")
    assert asked.code == 0, asked.err
    assert json.loads(asked.json()["text"])["outlook"] in ("on_time", "delayed")
    replayed = antiphon("replay", made, "--json")
    assert (replayed.code, replayed.json()["identical"]) == (0, True), replayed.err
    explained = antiphon("explain", made)
    for told in ("today.minutes", "late_share", "policy", "smollm2-135m", f"antiphon explain {made} --full"):
        assert told in explained.out
    assert len(explained.out.splitlines()) < 25, "more than a screen"
    full = antiphon("explain", made, "--full").out
    for told in ("<|im_start|>", "orders.csv", "token ids"):
        assert told in full
    refreshed = antiphon("features", "refresh", "--wait", "--json")
    assert (refreshed.code, refreshed.json()["status"]) == (0, "succeeded"), refreshed.err
    assert "published" in refreshed.err
    assert {process["name"] for process in antiphon("status", "--json").json()["processes"] if process["alive"]} == {
        "engine",
        "gateway",
        "worker",
    }

    second = antiphon("up")
    assert (second.code, "already up" in second.err) == (7, True)
    pid = next(line["pid"] for line in up.told() if line["process"] == "gateway" and line["event"] == "ready")
    os.kill(pid, signal.SIGKILL)
    up.until(lambda told: sum(line.get("event") == "ready" and line["process"] == "gateway" for line in told) == 2)
    assert httpx2.get(f"{url}/readyz", timeout=10).status_code == 200

    assert up.stop() == 0
    stopped = [line["process"] for line in up.told() if line["event"] == "stopped"]
    assert stopped == ["gateway", "worker", "engine"]
    assert not list((project / ".antiphon" / "run").glob("*.pid"))

    again = Up(project)
    try:
        again.until(lambda told: any(line.get("event") == "up" for line in told))
        found = httpx2.get(f"{url}/admin/predictions/{made}", headers=key(project), timeout=10)
        assert found.json()["receipt"]["prediction"] == made
        a_kill_of_the_supervisor_ends_everything(again)
    finally:
        again.stop()
    after = Up(project)
    try:
        after.until(lambda told: any(line.get("event") == "up" for line in told))
    finally:
        assert after.stop() == 0


def a_kill_of_the_supervisor_ends_everything(up: Up) -> None:
    pids = {line["process"]: line["pid"] for line in up.told() if line.get("event") == "ready"}
    assert set(pids) == {"engine", "gateway", "worker"}
    up.process.kill()
    deadline = monotonic() + 20
    while left := [name for name, pid in pids.items() if started_ticks(pid) is not None]:
        assert monotonic() < deadline, left
        sleep(0.01)


def test_a_batch_job_from_the_terminal(project, antiphon, up) -> None:
    (project / "shops.csv").write_text("shop\nbakery\nbooks\ntea\n")
    run = antiphon("batch", "run", "desk", "--input", "shops.csv", "--output", "answers.jsonl", "--json")
    assert run.code == 0, run.err
    assert (run.json()["rows_done"], run.json()["rows_failed"]) == (3, 0)
    rows = [json.loads(line) for line in (project / "answers.jsonl").read_text().splitlines()]
    assert [row["shop"] for row in rows] == ["bakery", "books", "tea"]
    assert antiphon("batch", "list", "--json").json()[0]["status"] == "completed"
    assert antiphon("runs", "list", "--json").json()
    wrong = antiphon("batch", "run", "desk", "--input", "definitions.py", "--output", "x.jsonl")
    assert (wrong.code, "Traceback" in wrong.err) == (2, False)
    batch_by_the_official_client(project, antiphon, up.port)


def batch_by_the_official_client(project, antiphon, port: int) -> None:
    bearer = key(project)["authorization"].removeprefix("Bearer ")
    rows = [
        {
            "custom_id": shop,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": QUESTION | {"entity": {"shop": shop}},
        }
        for shop in ("tea", "books", "nowhere")
    ]
    (project / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=bearer) as client:
        file = client.files.create(file=project / "requests.jsonl", purpose="batch")
        made = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )  # fmt: skip
        deadline = monotonic() + 240
        while (batch := client.batches.retrieve(made.id)).status != "completed":
            assert monotonic() < deadline, batch
            sleep(0.05)
        lines = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [line["custom_id"] for line in lines] == ["tea", "books"]
    assert all(line["response"]["body"]["antiphon"]["prediction"].startswith("pred_") for line in lines)
    assert (batch.request_counts.total, batch.request_counts.failed, batch.model) == (3, 1, "desk")
    listed = antiphon("batch", "list", "--json").json()[0]
    assert (listed["id"], listed["kind"], listed["rows_done"]) == (made.id, "openai", 3)
    shown = antiphon("batch", "show", made.id, "--json").json()
    assert (shown["status"], shown["output_file_id"]) == ("completed", batch.output_file_id)
    late = antiphon("batch", "cancel", made.id)
    assert (late.code, "completed" in late.err) == (5, True)


def test_a_taken_port_is_said_before_anything_starts(project, tmp_path) -> None:
    import socket

    antiphon = run_in(tmp_path)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        antiphon("init", "other", "--port", str(listener.getsockname()[1]))
        failed = run_in(tmp_path / "other")("up")
    assert failed.code == 7
    assert "already in use" in failed.err
    assert not (tmp_path / "other" / ".antiphon" / "logs").exists()


@pytest.mark.parametrize("broken", ["broken.gguf"])
def test_a_broken_model_file_ends_the_start_with_a_clear_line(tmp_path, broken) -> None:
    antiphon = run_in(tmp_path)
    antiphon("init", "other")
    folder = tmp_path / "other"
    (folder / broken).write_bytes(b"not a model")
    settings = folder / "antiphon.toml"
    settings.write_text(settings.read_text().replace('"smollm2-135m"', f'"{broken}"'))
    failed = run_in(folder)("up")
    assert failed.code == 7
    assert "GGUF" in failed.err
    assert "Traceback" not in failed.err
