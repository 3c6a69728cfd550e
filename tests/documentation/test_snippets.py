"""Every marked snippet of the documentation runs, in the order in which a reader meets it.

A fence is marked in its info string: ``sh run`` (shell) and ``python run`` are executed and must succeed;
``sh background=WORDS`` is started, must say the words, and is ended after the document's last snippet. The snippets of
one document share a fresh folder and a shell, so ``cd`` carries on. What is not marked is not run.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt
from tests.harness import warm_program

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SECONDS = 300
LANGUAGES = {"sh", "bash", "shell", "python"}


class Snippet(NamedTuple):
    """A marked fence: ``awaited`` is what a background one says when it is ready, ``None`` for one that ends."""

    line: int
    language: str
    code: str
    awaited: str | None


def snippets(text: str) -> list[Snippet]:
    """The marked fences, in order. A marker that is unknown is an error, never silence."""
    found = []
    for token in MarkdownIt().parse(text):
        language, _, marker = token.info.strip().partition(" ") if token.type == "fence" else ("", "", "")
        if not marker:
            continue
        mode, _, awaited = marker.partition("=")
        assert language in LANGUAGES, f"{language!r} cannot be run"
        assert mode in {"run", "background"}, f"unknown marker {marker!r}"
        assert bool(awaited) == (mode == "background"), f"{marker!r}: background snippets, and no other, say something"
        found.append(Snippet((token.map or [0])[0] + 1, language, token.content, awaited or None))
    return found


def script(name: str, found: list[Snippet]) -> str:
    """One shell script of a document's snippets; each says its line on stderr before it runs. The README's first steps
    are those of a newcomer: they run the program itself."""
    lines = [
        "set -euo pipefail",
        *([] if name == "README.md" else [warm_program.shell_function()]),
        "groups=",
        "trap 'code=$?; set +e; for g in $groups; do kill -- -$g; done; wait; exit $code' EXIT",
    ]
    for snippet in found:
        lines.append(f"echo '{name}:{snippet.line}' >&2")
        code = snippet.code
        if snippet.language == "python":
            code = f"{shlex.quote(sys.executable)} - <<'END_OF_SNIPPET'\n{code}END_OF_SNIPPET"
        if snippet.awaited is None:
            lines.append(code)
            continue
        # With job control on it is a process group of its own, so that what it starts ends with it.
        lines.append(f'set -m; (\n{code}\n) >background.log 2>&1 & started=$!; set +m; groups="$groups $started"')
        lines.append("log=$PWD/background.log; touch $log")
        said = f"grep --quiet --fixed-strings {shlex.quote(snippet.awaited)} $log"
        lines.append(f"until {said}; do kill -0 $started || {{ cat $log >&2; exit 1; }}; sleep 0.1; done")
    return "\n".join(lines) + "\n"


def execute(name: str, found: list[Snippet], folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **warm_program.environment(), "PATH": path}
    with subprocess.Popen(
        ["bash", "-c", script(name, found)], cwd=folder, env=environment, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as shell:  # fmt: skip
        try:
            out, err = shell.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGTERM)
            out, err = shell.communicate(timeout=60)
            pytest.fail(f"{name} did not end within {SECONDS} s:\n{out}\n{err}")
        return subprocess.CompletedProcess(shell.args, shell.returncode, out, err)


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if snippets(path.read_text())], ids=lambda p: p.name)
def test_a_document_does_what_it_says(document: Path, tmp_path: Path) -> None:
    ended = execute(document.name, snippets(document.read_text()), tmp_path)
    logs = "\n".join(log.read_text(errors="replace") for log in tmp_path.rglob("background.log"))
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}\n{logs}"


def test_the_readme_has_something_to_run() -> None:
    assert snippets((ROOT / "README.md").read_text()), "mark its first steps: ```sh run"


def test_the_collector_reads_markers_and_refuses_unknown_ones() -> None:
    text = "```sh run\necho a\n```\n\n- item\n  ```python run\n  print(1)\n  ```\n\n```sh\nnot run\n```\n"
    assert [(s.line, s.language, s.code) for s in snippets(text)] == [
        (1, "sh", "echo a\n"),
        (6, "python", "print(1)\n"),
    ]
    for wrong in ("```sh rum\n```", "```sql run\n```", "```sh background\n```", "```sh run=x\n```"):
        with pytest.raises(AssertionError):
            snippets(wrong)


def test_a_snippet_that_fails_fails_the_document(tmp_path: Path) -> None:
    good = "```sh run\nmkdir deep && cd deep\n```\n```python run\nopen('made', 'w').close()\n```\n"
    assert execute("good", snippets(good), tmp_path).returncode == 0
    assert (tmp_path / "deep" / "made").exists()
    for bad in (
        "```sh run\nfalse | cat\n```",
        "```python run\n1/0\n```",
        "```sh background=ready\ntrue\n```",
    ):
        ended = execute("bad", snippets(bad), tmp_path)
        assert ended.returncode != 0
        assert "bad:1" in ended.stderr
