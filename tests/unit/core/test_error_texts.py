"""Error messages of the whole source: each sentence names its subject, since clients print it without ``where``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import antiphon
from antiphon.core.errors import AntiphonError, InvalidInputError

SOURCE = Path(antiphon.__file__).parent
PRONOUN = re.compile(r"(?:it|its|they|their|he|she|this|that|these|those)\b", re.IGNORECASE)


def bare(text: str) -> bool:
    """Tell whether a sentence begins with a word that only stands for its subject."""
    return PRONOUN.match(text.strip()) is not None


def error_classes(trees: dict[Path, ast.Module]) -> set[str]:
    """Names of the classes that derive from the base of all errors, anywhere in the source."""
    bases = {
        node.name: {base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in node.bases}
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {AntiphonError.__name__}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return found


def beginnings(node: ast.expr) -> Iterator[str]:
    """Texts that an expression may begin with."""
    match node:
        case ast.Constant(value=str() as text):
            yield text
        case ast.JoinedStr(values=[first, *_]):
            yield from beginnings(first)
        case ast.FormattedValue(value=value):
            yield from beginnings(value)
        case ast.IfExp(body=yes, orelse=no):
            yield from (*beginnings(yes), *beginnings(no))
        case ast.BoolOp(values=values):
            for value in values:
                yield from beginnings(value)
        case ast.BinOp(left=left):
            yield from beginnings(left)


def test_every_error_names_its_subject() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
    classes = error_classes(trees)
    seen, wrong = 0, []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name in classes or name in ("_unavailable", "_outside"):
                texts = list(beginnings(node.args[0]))
                seen += len(texts)
                wrong += [f"{path.relative_to(SOURCE)}:{node.lineno}: {text}" for text in texts if bare(text)]
    assert seen > 700, "the search no longer finds the errors"
    assert not wrong, "\n".join(wrong)


def test_every_finding_of_a_gate_names_its_subject() -> None:
    seen, wrong = 0, []
    for path in sorted((SOURCE / "features" / "monitoring" / "quality").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Yield | ast.Return) and node.value is not None:
                texts = list(beginnings(node.value))
                seen += len(texts)
                wrong += [f"{path.name}:{node.lineno}: {text}" for text in texts if bare(text)]
    assert seen > 25, "the search no longer finds the findings"
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("text", ["It has no schema.", "This is not TOML.", "They end.", "Its output is free text."])
def test_a_pronoun_is_no_subject(text: str) -> None:
    assert bare(text)


def test_a_place_that_the_sentence_names_is_not_said_twice() -> None:
    assert (
        InvalidInputError("The feature a.b has no value.", where="feature a.b").located
        == "The feature a.b has no value."
    )
    assert InvalidInputError("`n` is too large.", where="line 3").located == "line 3: `n` is too large."
