"""Every command on a project that does not run, its errors and its speed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.integration.cli.conftest import PROGRAM, run_in


def test_help_is_quick_and_pulls_in_nothing_heavy() -> None:
    heavy = [
        "sqlalchemy",
        "duckdb",
        "pyarrow",
        "lmdb",
        "starlette",
        "uvicorn",
        "cedarpy",
        "llama_cpp",
        "rich",
        "jinja2",
        "httpx2",
        "numpy",
        "cryptography",
    ]
    began = "import sys, time; began = time.process_time(); sys.argv = ['antiphon', '--help']"
    timed = began + "\n{}\nprint({}, file=sys.stderr)"
    said = f"[name for name in {heavy!r} if name in sys.modules], time.process_time() - began"
    helped = timed.format("from antiphon.cli.main import main\ntry: main()\nexcept SystemExit: pass", said)
    # What no command can do without, on the same machine at the same time.
    bare = timed.format("import msgspec, typer", said)
    tries = [[subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
              for code in (helped, bare)] for _ in range(3)]  # fmt: skip
    assert tries[0][0].stderr.startswith("[] ")
    seconds, least = (min(float(one[kind].stderr.rsplit(" ", 1)[1]) for one in tries) for kind in (0, 1))
    assert seconds < 5 * least, f"{seconds / least:.1f} times as long"
    for command in (
        "init",
        "up",
        "plan",
        "apply",
        "status",
        "ask",
        "explain",
        "replay",
        "doctor",
        "features",
        "releases",
    ):
        assert command in tries[0][0].stdout


def test_every_command_has_json_and_a_project_option() -> None:
    import typer

    from antiphon.cli.main import assemble

    def leaves(group, path=()):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from leaves(command, (*path, name))
            else:
                yield (*path, name), {option for parameter in command.params for option in parameter.opts}

    found = dict(leaves(typer.main.get_command(assemble())))
    assert len(found) > 20
    # What these print is for programs as it is: a proof in JSON, a key, a program.
    programs = {"audit": ("prove", "checkpoint", "key", "verifier"), "telemetry": ("alerts", "dashboard")}
    for path in ((group, name) for group, names in programs.items() for name in names):
        del found[path]
    for path, options in found.items():
        assert "--json" in options, path
        if path[0] not in ("init", "models") and path not in _OF_NO_PROJECT:
            assert "--project" in options, path


_OF_NO_PROJECT = (("features", "import-feast"), ("evaluations", "check"), ("telemetry", "check"))
"""It writes a project of its own; it reads files alone; it asks the collector of an environment."""


def test_init_refuses_what_it_cannot_make_and_leaves_nothing(tmp_path) -> None:
    antiphon = run_in(tmp_path)
    assert antiphon("init", "My Desk").code == 2
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    refused = antiphon("init", "taken")
    assert (refused.code, "not empty" in refused.err) == (5, True)
    assert [file.name for file in (tmp_path / "taken").iterdir()] == ["file"]
    (tmp_path / "empty").mkdir()
    assert antiphon("init", "empty").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "taken"]


def test_init_writes_the_same_orders_for_the_same_time(tmp_path) -> None:
    from datetime import UTC, datetime

    from antiphon.cli.blueprints.orders import write_orders

    until = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    number = write_orders(tmp_path / "a", until)
    write_orders(tmp_path / "b", until)
    assert (tmp_path / "a" / "orders.csv").read_bytes() == (tmp_path / "b" / "orders.csv").read_bytes()
    rows = (tmp_path / "a" / "orders.csv").read_text().splitlines()[1:]
    assert len(rows) == number > 6_000
    assert max(row.split(",")[3] for row in rows) <= "2026-03-01T12:30:00Z"


def test_plan_shows_and_apply_releases_and_applying_again_changes_nothing(antiphon, project) -> None:
    planned = antiphon("plan", "--json").json()
    assert {(change["noun"], change["name"], change["change"]) for change in planned["changes"]} == {
        ("view", "today", "new"),
        ("view", "usually", "new"),
        ("application", "desk", "new"),
    }
    assert antiphon("apply", "--json", "--rationale", "first").json()["activated"] == ["desk"]
    assert antiphon("apply", "--json").json()["activated"] == []
    assert {change["change"] for change in antiphon("plan", "--json").json()["changes"]} == {"unchanged"}
    listed = antiphon("releases", "list", "desk", "--json").json()
    assert [(line["number"], line["stage"], line["rationale"]) for line in listed] == [(1, "live", "first")]
    definitions = project / "definitions.py"
    before = definitions.read_text()
    definitions.write_text(before.replace("max_tokens=80", "max_tokens=90"))
    try:
        changed = antiphon("plan")
        assert "changed" in changed.out
        assert antiphon("apply", "--rationale", "longer").code == 0
        first, second = (line["release"] for line in reversed(antiphon("releases", "list", "--json").json()))
        diff = antiphon("releases", "diff", first, second)
        assert "max_tokens" in diff.out
        assert antiphon("rollback", "desk", "--reason", "too long").code == 0
        live = [line["release"] for line in antiphon("releases", "list", "--json").json() if line["stage"] == "live"]
        assert live == [first]
        assert antiphon("releases", "activate", "desk", second, "--reason", "back").code == 0
        assert antiphon("releases", "activate", "desk", "rel_none", "--reason", "x").code == 3
    finally:
        definitions.write_text(before)
        antiphon("apply")


def test_bad_definitions_are_told_all_at_once_with_file_and_line(antiphon, project) -> None:
    definitions = project / "definitions.py"
    before = definitions.read_text()
    try:
        definitions.write_text(before.replace('window="24h"', 'window="24x"').replace("features.today.orders", "x"))
        failed = antiphon("plan")
        assert failed.code == 2
        assert failed.err.count("definitions.py:") >= 2
        definitions.write_text("def broken(:\n")
        failed = antiphon("plan", "--json")
        assert failed.code == 2
        assert "definitions.py:1" in json.loads(failed.err)["error"]["message"]
    finally:
        definitions.write_text(before)


@pytest.fixture(scope="module")
def applied(project) -> None:
    assert run_in(project)("apply").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("explain", "pred_none"), 3, "There is no prediction"),
        (("ask", "desk", "hello", "-e", "shop"), 2, "KEY=VALUE"),
        (("ask", "desk", "hello", "-e", "shop=tea", "--as-of", "noon"), 2, "is no time"),
        (("ask", "desk", "hello", "-e", "shop=tea"), 6, "Nothing is published yet. Nothing runs in this project."),
        (("ask", "smollm2-135m", "hello"), 6, "next: Start `antiphon up`"),
        (("releases", "list", "dekc"), 3, "Did you mean 'desk'? There is desk."),
        (("releases", "changelog", "dekc"), 3, "Did you mean 'desk'?"),
        (("datasets", "list", "dekc"), 3, "Did you mean 'desk'?"),
        (("outcomes", "list", "dekc"), 3, "Did you mean 'desk'?"),
        (("batch", "run", "dekc", "--input", "orders.csv", "--output", "x", "--no-wait"), 3, "Did you mean 'desk'?"),
        (("features", "describe", "Toda"), 3, "Did you mean 'today'?"),
        (("features", "refresh", "usualy"), 3, "Did you mean 'usually'?"),
        (("features", "refresh", "--wait"), 6, "No worker runs"),
        (("events", "push", "order", "orders.csv"), 3, "Did you mean 'orders'?"),
        (("ask", "smollm2-135m", "hello"), 6, "engine"),
        (("runs", "show", "run_none"), 3, "no run"),
        (("keys", "create", "a b"), 2, "not a principal's name"),
        (("keys", "create", "x", "--role", "king"), 2, "not a role"),
        (("keys", "revoke", "key_none"), 3, "no API key"),
        (("events", "push", "nothing", "orders.csv"), 3, "no stream"),
        (("events", "push", "orders", "none.csv"), 3, "none.csv"),
        (("batch", "run", "desk", "--input", "orders.csv", "--output", "x.jsonl"), 6, "No worker runs"),
        (("models", "pull", "gpt-9"), 3, "gpt-9"),
        (("status", "--project", "/nonexistent"), 3, "antiphon init"),
    ],
)
def test_errors_have_a_next_step_and_an_exit_code(antiphon, applied, arguments, code, says) -> None:
    failed = antiphon(*arguments)
    assert failed.code == code, failed.err
    assert says in failed.err
    assert "Traceback" not in failed.err
    assert failed.out == ""


def test_status_says_how_to_start_what_does_not_run_and_nothing_of_encryption(antiphon, applied) -> None:
    told = antiphon("status")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("Nothing runs here: `antiphon up` starts it.")
    assert "engine: not running" in told.out
    assert "ENCRYPTION IS OFF" in antiphon("doctor").out


def test_a_blank_project_declares_nothing_and_its_example_is_one(tmp_path) -> None:
    antiphon = run_in(tmp_path)
    made = antiphon("init", "mine", "--blueprint", "blank", "--json").json()
    assert made["files"] == [".gitignore", "README.md", "antiphon.toml", "definitions.py"]
    assert "Nothing is declared." in antiphon("plan", "--project", "mine").out
    definitions = tmp_path / "mine" / "definitions.py"
    lines = [line.removeprefix("#").removeprefix(" ") for line in definitions.read_text().splitlines()]
    definitions.write_text("\n".join(lines))
    planned = antiphon("plan", "--project", "mine", "--json").json()["changes"]
    assert {(change["noun"], change["name"]) for change in planned} == {("view", "spend"), ("application", "helper")}
    refused = antiphon("init", "other", "--blueprint", "blnak")
    assert (
        refused.code,
        "Did you mean 'blank'? There are assistant, blank, desk, enrichment, extraction, triage." in refused.err,
    ) == (3, True)


def test_misspelt_settings_are_named(antiphon, project) -> None:
    settings = project / "antiphon.toml"
    before = settings.read_text()
    try:
        settings.write_text(before.replace("port =", "prot ="))
        failed = antiphon("status")
        assert failed.code == 2
        assert "prot" in failed.err
    finally:
        settings.write_text(before)


def test_keys_are_made_listed_and_revoked(antiphon) -> None:
    made = antiphon("keys", "create", "bot", "--role", "viewer", "--expires-in", "90d", "--json").json()
    assert made["key"].startswith("ak_")
    listed = antiphon("keys", "list")
    assert made["key"] not in listed.out
    assert made["record"]["id"] in listed.out
    assert antiphon("keys", "revoke", made["record"]["id"], "--json").json()["revoked_at"] is not None


def test_doctor_says_what_is_wrong_and_leaves_with_seven(antiphon, project) -> None:
    assert antiphon("doctor").code == 0
    settings = project / "antiphon.toml"
    before = settings.read_text()
    try:
        settings.write_text(before.replace('kind = "simulated"', "").replace("smollm2-135m", "smollm2-135m-none"))
        failed = antiphon("doctor", "--json")
        assert failed.code == 7
        wrong = {line["check"]: line for line in failed.json() if line["problem"]}
        assert set(wrong) == {"models"}
        assert wrong["models"]["next_step"]
    finally:
        settings.write_text(before)


def test_events_are_pushed_once(antiphon, tmp_path) -> None:
    antiphon("apply")
    file = tmp_path / "new.csv"
    file.write_text(
        "order_id,shop,ordered,handed_over,minutes,promised\n"
        "n1,tea,2026-01-01T10:00:00Z,2026-01-01T10:09:00Z,9,12\n"
        "n2,tea,2026-01-01T11:00:00Z,2026-01-01T11:09:00Z,9,12\n"
    )
    assert antiphon("events", "push", "orders", str(file), "--json").json()["new"] == 2
    assert antiphon("events", "push", "orders", str(file), "--json").json()["new"] == 0
    file.write_text("order_id,shop,ordered,handed_over,minutes,promised\n,tea,2026-01-01T10:00:00Z,x,9,12\n")
    failed = antiphon("events", "push", "orders", str(file))
    assert failed.code == 2
    assert "row 1" in failed.err


def test_the_module_is_the_program() -> None:
    assert subprocess.run([*PROGRAM, "nonsense"], capture_output=True, timeout=30).returncode == 2
