"""Every ``antiphon …`` command that source, templates and documents mention, parsed by the real command tree.

Of Python files it reads string literals (error messages, next steps, help, docstrings) and takes what stands in
backticks; of documents and templates also lines of shell blocks and ``<code>``. A name without arguments mentions a
command; with arguments it must be accepted as it stands.
"""

from __future__ import annotations

import ast
import html
import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperCommand, TyperGroup

from antiphon.cli.main import assemble

ROOT = Path(__file__).parents[2]
PLACEHOLDER = "VALUE"
DOCUMENTS = [
    *(path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"),  # which tells of commands that were
    *(path for path in ROOT.glob("docs/**/*.md") if "adr" not in path.parts),
    *ROOT.glob("examples/**/*.md"),
    *ROOT.glob("benchmarks/**/*.md"),
    *ROOT.glob("src/**/*.template"),
    *ROOT.glob("src/**/*.html"),
]
SOURCES = [*ROOT.glob("src/**/*.py"), *ROOT.glob("examples/**/*.py")]

_QUOTED = re.compile(r"`{1,2}(antiphon(?: [^`]*)?)`{1,2}|<code>(antiphon(?: .*?)?)</code>", re.DOTALL)
_SHELL = re.compile(r"^```(?:sh|bash|console)?\b[^\n]*\n(.*?)^```|^```\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LINE = re.compile(r"^\s*(?:\$ )?(antiphon [^\n]*)", re.MULTILINE)
_STANDS_IN = re.compile(r"[A-Z]+(?:_[A-Z]+)*")


@dataclass(frozen=True)
class Mention:
    """A command as it is written somewhere."""

    where: str
    text: str
    strict: bool
    """A group alone is not enough: the reader is told to run it."""


def mentions() -> Iterator[Mention]:
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        place = str(path.relative_to(ROOT))
        for found in _QUOTED.finditer(_without_blocks(text)):
            yield Mention(place, found[1] or found[2], strict=False)
        for block in _SHELL.finditer(text):
            for found in _LINE.finditer((block[1] or block[2] or "").replace("\\\n", " ")):
                yield Mention(place, found[1], strict=True)
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inner = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and id(node) not in inner):
                for found in _QUOTED.finditer(literal(node)):
                    place = f"{path.relative_to(ROOT)}:{node.lineno}"
                    yield Mention(place, found[1] or found[2], strict=id(node) not in documentation)


def literal(node: ast.JoinedStr | ast.Constant) -> str:
    """The text of a literal, with a placeholder for each value in it."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(str(part.value) if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values)


def arguments(text: str) -> list[str]:
    """The words after ``antiphon``, up to what a shell does with its output; what stands for a value is a one."""
    text = re.sub(r"\$\([^)]*\)|\{\{.*?\}\}|…|\.\.\.", PLACEHOLDER, html.unescape(text))
    reading = shlex.shlex(re.sub(r"[\[\]]", " ", text), posix=True, punctuation_chars="|>;&()")
    reading.whitespace_split = True
    words = itertools.takewhile(lambda word: not set(word) & set("|>;&"), reading)
    return ["1" if _STANDS_IN.fullmatch(word) else word for word in words][1:]


@cache
def tree() -> TyperGroup:
    command = typer.main.get_command(assemble())
    assert isinstance(command, TyperGroup)
    return command


def problem(text: str, strict: bool) -> str | None:
    """The reason why the command line does not accept a mention, if it does not."""
    command: TyperCommand | TyperGroup = tree()
    words = arguments(text)
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        if words[0] == "1":
            return None  # one of several, which the code chooses
        if words[0] not in command.commands:
            return f"there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    if isinstance(command, TyperGroup):
        return "a group is no command" if strict and text.strip() != "antiphon" and not words else None
    if not words:
        return None  # the command's name
    try:
        command.make_context("antiphon", list(words))
    except typer.Exit:
        return None  # --help
    except Exception as error:
        return str(error) or type(error).__name__
    return None


def test_every_command_that_is_mentioned_exists() -> None:
    seen, wrong = 0, []
    for mention in mentions():
        seen += 1
        if (what := problem(mention.text, mention.strict)) is not None:
            wrong.append(f"{mention.where}: `{mention.text}`: {what}")
    assert seen > 400, "the search no longer finds the commands"
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("antiphon releases rollback desk", "no command 'rollback'"),
        ("antiphon outcomes import APPLICATION --input FILE", "No such option"),
        ("antiphon releases abort desk", "Missing parameter: reason"),
        ("antiphon runs", "a group is no command"),
        ("antiphon explain A B", "unexpected extra argument"),
    ],
)
def test_a_wrong_mention_is_found(text: str, says: str) -> None:
    assert says in (problem(text, strict=True) or "")


@pytest.mark.parametrize(
    "text", ["antiphon up", "antiphon tls init --write", "antiphon releases list {{ application }}", "antiphon -h"]
)
def test_a_right_mention_passes(text: str) -> None:
    assert problem(text, strict=False) is None


def _without_blocks(text: str) -> str:
    return _SHELL.sub("", text)
