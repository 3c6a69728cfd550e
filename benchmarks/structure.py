"""Measures the source tree: its size, its ports, its import circles and the language of its names and docstrings.

Run ``python -m benchmarks.structure``: a table by package, then one JSON line (kept in
``benchmarks/results/structure.jsonl``); ``--names`` lists each offending name. ``tests/documentation/test_language.py``
holds the same measurements to zero. Rules and words: ``docs/glossary.md``.
"""

from __future__ import annotations

import argparse
import ast
import collections
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"
QUESTION_WORDS = re.compile(
    r"(What|How|Who|Whose|Whom|That|Which|Where|When|Why|Whether|Whoever|Whatever|Somebody|Nobody|Someone|Anybody"
    r"|Everybody|Everything|Nothing)\b"
)
# Words in -ed and -ing that name a thing.
NOUNS = re.compile(
    r"Decoding|Embedding|Encoding|Feed|Finding|Heading|Keyring|Mapping|Need|Rating|Retraining|Ring|Routing|"
    r"Scheduling|Seed|Setting|Speed|String|Supply|Thing|Timing|Tracing|Training|Warning"
)
# Participles without -ed, adverbs, verbs and small words; none of them names a thing.
NOT_NOUNS = re.compile(
    r"Again|Anything|At|Begun|Bound|Broken|Built|By|Caught|Chosen|Decide|Describe|Done|Drawn|"
    r"Embed|Forgotten|Found|Given|Gone|Grown|Happened|Held|Here|Hidden|How|Kept|Known|Laid|Led|"
    r"Lost|Made|Met|Nothing|Now|Paid|Put|Said|Same|Seen|Sent|Shown|Something|Soon|Spent|Submit|"
    r"Taken|Then|There|Thought|Thrown|Told|Two|Understood|Unknown|What|When|Where|Who|Whose|Why|"
    r"Worn|Written|Wrote"
)


@dataclass(frozen=True)
class Offence:
    """A name or docstring that breaks a rule of the house.

    Attributes:
        module: Dotted name of the module.
        name: The class, function or module.
        line: Line number, from 1.
        text: What stands there.
    """

    module: str
    name: str
    line: int
    text: str = ""

    @property
    def package(self) -> str:
        """The package under ``antiphon``, or ``antiphon`` for the root."""
        return [*self.module.split("."), ""][1] if "." in self.module else "antiphon"

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.name} {self.text}".rstrip()


@dataclass
class Structure:
    """Measurements of one source tree."""

    lines: int = 0
    app_lines: int = 0
    modules: int = 0
    long_modules: list[Offence] = field(default_factory=list)
    protocols: list[Offence] = field(default_factory=list)
    participles: list[Offence] = field(default_factory=list)
    duplicates: list[Offence] = field(default_factory=list)
    question_docstrings: list[Offence] = field(default_factory=list)
    private_words: list[Offence] = field(default_factory=list)
    circles: list[list[str]] = field(default_factory=list)


def measure(source: Path = ROOT / "src", glossary: Path = GLOSSARY) -> Structure:
    """Reads every module under ``source`` and returns what it finds. Modules are parsed, never imported."""
    found = Structure()
    words = private_words(glossary)
    files = _modules(source)
    classes: dict[str, list[Offence]] = collections.defaultdict(list)
    imports: dict[str, set[str]] = {}
    for module, path in files.items():
        text = path.read_text()
        tree = ast.parse(text)
        lines = text.count("\n")
        found.lines += lines
        found.app_lines += lines if module.startswith("antiphon.app") else 0
        if lines > 400:
            found.long_modules.append(Offence(module, "", 1, f"{lines} lines"))
        imports[module] = _imports(tree, files) - {module}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                offence = Offence(module, node.name, node.lineno)
                classes[node.name].append(offence)
                if any("Protocol" in ast.unparse(base) for base in node.bases):
                    found.protocols.append(offence)
                if _is_no_noun(node.name):
                    found.participles.append(offence)
            # Docstrings of modules, classes and functions, and those below a constant or a field.
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                first = node.value.value.strip().split("\n")[0]
                if QUESTION_WORDS.match(first):
                    found.question_docstrings.append(Offence(module, "", node.lineno, first))
            for name, line in _defined_names(node):
                if hits := words & set(_words(name)):
                    found.private_words.append(Offence(module, name, line, ", ".join(sorted(hits))))
    found.modules = len(files)
    found.duplicates = [each for group in classes.values() if len(group) > 1 for each in group]
    found.circles = circles(imports)
    return found


def private_words(glossary: Path = GLOSSARY) -> frozenset[str]:
    """Returns the words in the glossary's "do not use" table: its first column, in lower case."""
    _, _, table = glossary.read_text().partition("## Do not use")
    return frozenset(word.lower() for word in re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Returns the strongly connected groups of more than one module (Tarjan 1972), each sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(imports.get(module, ())):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            at = stack.index(module)
            if len(stack) - at > 1:
                groups.append(sorted(stack[at:]))
            del stack[at:]

    for module in imports:
        if module not in index:
            visit(module)
    return groups


def wheel_bytes() -> int:
    """Builds the wheel into a folder that is removed again and returns its size in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(ROOT)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return next(Path(folder).glob("*.whl")).stat().st_size


def _modules(source: Path) -> dict[str, Path]:
    names = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def _imports(tree: ast.Module, modules: dict[str, Path]) -> set[str]:
    """Every import counts: at the top, inside a function, or for types alone."""
    named: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            named |= {
                submodule if (submodule := f"{node.module}.{each.name}") in modules else node.module
                for each in node.names
            }
        elif isinstance(node, ast.Import):
            named |= {each.name for each in node.names}
    return named & set(modules)


def _defined_names(node: ast.AST) -> list[tuple[str, int]]:
    """Names of a class and its fields, of a function, a parameter or a variable, each with its line."""
    if isinstance(node, ast.ClassDef):
        fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)]
        return [(node.name, node.lineno), *((ast.unparse(each.target), each.lineno) for each in fields)]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return [(node.name, node.lineno)]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [(node.id, node.lineno)]
    return [(node.arg, node.lineno)] if isinstance(node, ast.arg) else []


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def _is_no_noun(name: str) -> bool:
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    last = words[-1].capitalize() if words else ""
    if NOUNS.fullmatch(last):
        return False
    return bool(NOT_NOUNS.fullmatch(last)) or last.endswith(("ed", "ing", "ly"))


def main() -> None:
    """Prints the table by package and the JSON line, and keeps the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", metavar="PACKAGE", nargs="?", const="", help="list each offence (of PACKAGE)")
    parser.add_argument("--record", action="store_true", help="keep the JSON line, with the size of the wheel")
    asked = parser.parse_args()
    found = measure()
    kinds = {
        "protocols": found.protocols,
        "participles": found.participles,
        "duplicates": found.duplicates,
        "question docstrings": found.question_docstrings,
        "private words": found.private_words,
        "long modules": found.long_modules,
    }
    if asked.names is not None:
        for kind, offences in kinds.items():
            for offence in offences:
                if asked.names in ("", offence.package):
                    print(f"{kind}: {offence}")
    counts = {kind: collections.Counter(offence.package for offence in offences) for kind, offences in kinds.items()}
    packages = sorted(set().union(*counts.values()))
    print(f"{'package':<16}" + "".join(f"{kind:>21}" for kind in kinds))
    for package in packages:
        print(f"{package:<16}" + "".join(f"{counts[kind][package]:>21}" for kind in kinds))
    print(f"{'all':<16}" + "".join(f"{len(offences):>21}" for offences in kinds.values()))
    for circle in found.circles:
        print("circle: " + " <-> ".join(circle))
    figures: dict[str, object] = {
        "benchmark": "structure",
        "at": datetime.now(UTC).isoformat(),
        "lines": found.lines,
        "app_lines": found.app_lines,
        "modules": found.modules,
        "circles": len(found.circles),
        "duplicate_names": len({offence.name for offence in found.duplicates}),
    } | {kind.replace(" ", "_"): len(offences) for kind, offences in kinds.items()}
    if asked.record:
        figures["wheel_bytes"] = wheel_bytes()
    line = json.dumps(figures)
    if asked.record:
        with (ROOT / "benchmarks" / "results" / "structure.jsonl").open("a") as kept:
            kept.write(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
