"""Plain SQL as a source: one SELECT over declared sources, the same whenever and wherever it runs.

Invariant: what is let through reads nothing but its sources and depends on nothing but their rows: no file, no setting,
no clock, no chance. It is judged by DuckDB's own syntax tree, never by its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    import duckdb

TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series"})
"""Table functions allowed after FROM beside sources; none of them reads a file."""
_CLOCKS = frozenset(
    {
        "now", "today", "age", "transaction_timestamp", "current_date", "current_time", "current_timestamp",
        "current_localtime", "current_localtimestamp", "get_current_time", "get_current_timestamp", "localtime",
        "localtimestamp", "txid_current",
    }
)  # fmt: skip
_STATE = frozenset(
    {
        "current_setting", "getvariable", "current_database", "current_catalog", "current_schema", "current_schemas",
        "current_user", "session_user", "user", "current_role", "current_query", "current_query_id", "in_search_path",
        "getenv", "version",
    }
)  # fmt: skip
_UNSTABLE = frozenset({"hash"})
"""Another value in another version of DuckDB."""
_KEYWORDS = re.compile(
    "all|and|anti|any|as|asc|asof|case|cast|collate|cross|desc|distinct|else|end|except|false|for|from|full|group|having"
    "|ilike|in|inner|intersect|is|join|lateral|left|like|limit|natural|not|null|offset|on|or|order|outer|qualify|right"
    "|select|semi|some|then|true|union|unnest|using|when|where|window|with"
)
"""Words that are no names, so that their case says nothing."""
_PLAIN = re.compile(r"[^\W\d]\w*")
_AFTER = {"by": ("order", "group", "partition"), "over": (")",), "partition": ("(",)}
"""Words that may be names as well, but not after these."""
_TOKEN = re.compile(
    r"(?P<space>\s+|--[^\n]*)|(?P<text>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\$(\w*)\$.*?\$\3\$)"
    r"|(?P<name>\"(?:[^\"]|\"\")*\")|(?P<word>[^\W\d]\w*)"
    r"|(?P<number>\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"
    r"|(?P<sign>->>|<->|<=>|::|:=|<=|>=|<>|!=|==|\|\||->|=>|\*\*|//|<<|>>|&&|@>|<@|\^@|!~~|~~|!~|.)",
    re.DOTALL,
)


def normal_sql(text: str) -> str:
    """The SQL in one spelling of its white space, comments, and the case of keywords and functions.

    Tokens are kept one by one, so that nothing that is read otherwise becomes equal; names keep their case.
    """
    tokens: list[str] = []
    words: list[int] = []
    at = 0
    while at < len(text):
        if text.startswith("/*", at):
            at = _comment_end(text, at)
            continue
        found = _TOKEN.match(text, at)
        assert found is not None  # every character is one of them
        at = found.end()
        if found.lastgroup == "space":
            continue
        if found.lastgroup == "word":
            words.append(len(tokens))
        tokens.append(found.group())
    for place in words:
        lowered = tokens[place].lower()
        before = tokens[place - 1] if place else ""
        after = tokens[place + 1] if place + 1 < len(tokens) else ""
        if _KEYWORDS.fullmatch(lowered) or after == "(" or before in _AFTER.get(lowered, ()):
            tokens[place] = lowered
    while tokens and tokens[-1] == ";":
        tokens.pop()
    return " ".join(tokens)


def _comment_end(text: str, at: int) -> int:
    """Comments of this kind nest."""
    depth = 0
    while at < len(text):
        if text.startswith("/*", at):
            depth, at = depth + 1, at + 2
        elif text.startswith("*/", at):
            depth, at = depth - 1, at + 2
            if depth == 0:
                return at
        else:
            at += 1
    return at


def query_mistakes(text: object, sources: Collection[str]) -> Iterator[str]:
    """Yields the mistakes of a query, a sentence each with the line of the SQL. ``sources``: names it may read."""
    if not isinstance(text, str) or not text.strip():
        yield "sql must be a text with one SELECT."
        return
    tree = _tree(text)
    if tree.get("error"):
        line = _line(text, tree.get("position"))
        if tree.get("error_type") == "not implemented":
            yield f"sql{line}: only one SELECT is taken; nothing else may run."
        else:
            yield f"sql{line}: {tree.get('error_message')}."
        return
    statements = tree["statements"]
    if len(statements) != 1:
        yield f"sql: {len(statements)} statements; only one SELECT is taken."
        return
    try:
        yield from dict.fromkeys(_found(statements[0], text, sources))
    except RecursionError:
        yield "sql is nested too deeply."


def _found(statement: Any, text: str, sources: Collection[str]) -> Iterator[str]:
    nodes = list(_nodes(statement))
    known = {*sources, *(entry["key"] for node in nodes for entry in (node.get("cte_map") or {}).get("map", ()))}
    lowered = {name.lower() for name in known}
    reads = False
    for name in sorted(known - set(sources)):
        if not _PLAIN.fullmatch(name):
            # Outside of its scope the same name would be a file's.
            yield f"sql: {name!r} is no plain name for a part of it."
    for node in nodes:
        line = _line(text, node.get("query_location"))
        kind = node.get("type")
        if node.get("sample") is not None:
            yield f"sql{line}: a sample is another one each time."
        if kind == "BASE_TABLE":
            name = node["table_name"]
            if node.get("schema_name") or node.get("catalog_name") or name.lower() not in lowered:
                there = ", ".join(sorted(sources)) or "none"
                yield f"sql{line}: it reads {name!r}, which is none of its sources ({there})."
            reads = True
        elif kind == "SHOW_REF":
            yield f"sql{line}: only one SELECT is taken; nothing else may run."
        elif kind == "TABLE_FUNCTION":
            name = node["function"].get("function_name", "")
            if name.lower() not in TABLE_FUNCTIONS:
                yield f"sql{line}: {name} may read what is none of its sources."
        elif node.get("class") == "PARAMETER":
            yield f"sql{line}: it has a parameter, which nothing fills."
        elif node.get("class") in ("FUNCTION", "WINDOW") and not node.get("is_operator"):
            yield from (f"sql{line}: {said}" for said in _function_mistakes(node.get("function_name", "").lower()))
        elif node.get("class") == "COLUMN_REF" and len(node["column_names"]) == 1:
            # A clock may be written without brackets, and then looks like a column.
            name = node["column_names"][0].lower()
            if name in _CLOCKS or name in _STATE:
                yield from (f"sql{line}: {said}" for said in _function_mistakes(name))
    if not reads:
        yield "sql reads none of its sources."


def _function_mistakes(name: str) -> Iterator[str]:
    if name in TABLE_FUNCTIONS:
        return
    if name in _CLOCKS:
        yield f"{name} depends on when it runs."
    elif name in _STATE or name.startswith(("pg_", "has_", "duckdb_")):
        yield f"{name} depends on where it runs."
    elif name in _UNSTABLE:
        yield f"{name} gives other values in other versions; use md5 or sha256."
    elif name in _functions("VOLATILE"):
        yield f"{name} gives another value each time."
    elif name not in _functions(""):
        yield f"there is no function {name}."


@lru_cache(maxsize=4)
def _functions(stability: str) -> frozenset[str]:
    with _connection() as connection:
        rows = connection.execute(
            "SELECT DISTINCT lower(function_name) FROM duckdb_functions() "
            "WHERE function_type IN ('scalar', 'aggregate', 'macro', 'window') AND (? = '' OR stability = ?)",
            [stability, stability],
        ).fetchall()
    return frozenset(row[0] for row in rows)


def _tree(text: str) -> dict[str, Any]:
    import duckdb

    try:
        with _connection() as connection:
            (row,) = connection.execute("SELECT json_serialize_sql(?)", [text]).fetchall()
        found: dict[str, Any] = json.loads(row[0])
    except (duckdb.Error, RecursionError) as error:
        return {"error": True, "error_type": "parser", "error_message": str(error).strip().splitlines()[0].rstrip(".")}
    return found


def _connection() -> duckdb.DuckDBPyConnection:
    import duckdb

    return duckdb.connect(
        ":memory:",
        config={
            "threads": 1,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "enable_external_access": False,
        },
    )


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of the syntax tree, without recursion: a query may be nested deeply."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _line(text: str, position: object) -> str:
    """``, line N`` of a place in the text; nothing for a node that has none."""
    try:
        at = int(str(position))
    except ValueError:
        return ""
    content = text.encode()
    lines = content[:at].count(b"\n") + 1
    return f", line {lines}" if 0 <= at <= len(content) else ""


def require_query(text: str, sources: Collection[str], where: str) -> None:
    """Requires that a query is one of those that are taken; raises ``InvalidInputError`` for any other."""
    for mistake in query_mistakes(text, sources):
        raise InvalidInputError(mistake, where=where, next_step="Correct the query.")
