"""The order of a job's rows: rows whose prompts begin alike go one after another.

The rendered prompt is not known before a row is asked, but it begins as its parts do: what stands in every prompt of an
application comes first anyway, then its entity, then the conversation. So rows are ordered by sketches of their parts.

An engine keeps few beginnings of prompts (its prefix cache). Rows in the order of their file that take turns among
many beginnings find theirs dropped again; rows that follow each other find it kept.

Invariants: what comes out is a permutation of what goes in. No row goes more than ``behind`` places after its turn,
which is its place by line. Within that bound rows that share a beginning stand together, at every length of it.

Among beginnings, those come first that finish most rows a token computed (a shared beginning is computed once): Smith's
rule, which finishes most rows by any moment (W. E. Smith, *Various optimizers for single-stage production*, 1956). The
tree of prefixes is HyGen's for batch work (arXiv 2501.14808, section 4.3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

BYTES_A_TOKEN = 4.0
"""Of a prompt, before any was measured: about that of English text."""

BEHIND = 4_096
"""Places by which a row may come after its turn."""

SHORTEST_PREFIX = 256
"""Bytes; about the chunk of tokens at whose ends engines keep beginnings."""

LONGEST_PREFIX = 32_768
"""Beyond so many bytes beginnings are not told apart, but for whole prompts."""

_MOST_PARTS = 6
USUAL_OUTPUT = 128
"""Tokens of a request that names no bound."""


class Prefix(msgspec.Struct, frozen=True, gc=False):
    """A prompt's beginning: a digest of it, and how long it is."""

    digest: int
    bytes: int


class RowSketch(msgspec.Struct, frozen=True):
    """Sketch of a row: about how long its prompt is, and the beginnings that others may share.

    Attributes:
        line: its turn is by this.
        at: where its line begins in the file.
        prompt_bytes: how long its prompt is about.
        output_limit: tokens that it may write.
        prefixes: beginnings of its prompt that others may share, each part of the next.
    """

    line: int
    at: int
    prompt_bytes: int
    output_limit: int
    prefixes: tuple[Prefix, ...]


def sharing_order(rows: Sequence[RowSketch], behind: int = BEHIND) -> list[RowSketch]:
    """Orders the rows so that those with a common beginning follow each other."""
    firsts, costs, counts = dict[int, int](), dict[int, float](), dict[int, int]()
    by_turn = sorted(rows, key=lambda row: row.line)
    for row in by_turn:
        own = _own_cost(row)
        above = 0
        for depth, prefix in enumerate(row.prefixes):
            if prefix.digest not in firsts:
                firsts[prefix.digest], costs[prefix.digest], counts[prefix.digest] = row.line, 0.0, 0
                for each in row.prefixes[: depth + 1]:
                    costs[each.digest] += (prefix.bytes - above) / BYTES_A_TOKEN
            costs[prefix.digest] += own
            counts[prefix.digest] += 1
            above = prefix.bytes

    def place(row: RowSketch) -> list[tuple[float, int]]:
        shared = [(costs[one.digest] / counts[one.digest], firsts[one.digest]) for one in row.prefixes]
        return [*shared, (_own_cost(row), row.line)]

    planned = sorted(range(len(by_turn)), key=lambda turn: place(by_turn[turn]))
    return [by_turn[turn] for turn in _none_late(planned, behind)]


def distinct_bytes(rows: Iterable[RowSketch]) -> int:
    """Bytes of prompts when every beginning is computed once: the least that has to be computed."""
    seen, total = set[int](), 0
    for row in rows:
        known = 0
        for prefix in row.prefixes:
            if prefix.digest in seen:
                known = prefix.bytes
            seen.add(prefix.digest)
        total += row.prompt_bytes - known
    return total


def _own_cost(row: RowSketch) -> float:
    shared = row.prefixes[-1].bytes if row.prefixes else 0
    return max(row.prompt_bytes - shared, 0) / BYTES_A_TOKEN + row.output_limit


def _none_late(planned: Sequence[int], behind: int) -> list[int]:
    """The turns as planned, but that one whose time has come goes next, and the plan goes on from there.

    At most one comes due at a place: turns differ, so the bound holds exactly.
    """
    count = len(planned)
    place_of = {turn: place for place, turn in enumerate(planned)}
    following = list(range(count + 1))
    gone = [False] * count
    ordered: list[int] = []
    cursor = oldest = 0
    for place in range(count):
        while gone[oldest]:
            oldest += 1
        if place >= oldest + behind:
            cursor = place_of[oldest]
        at = _following(following, cursor)
        at = at if at < count else _following(following, 0)
        turn = planned[at]
        gone[turn], following[at], cursor = True, at + 1, at + 1
        ordered.append(turn)
    return ordered


def _following(following: list[int], at: int) -> int:
    """The first place from ``at`` that is left, with path compression."""
    end = at
    while following[end] != end:
        end = following[end]
    while following[at] != end:
        following[at], at = end, following[at]
    return end


def row_sketch(
    line: int, at: int, parts: Sequence[str], output_limit: int | None, known: dict[int, Prefix] | None = None
) -> RowSketch:
    """Sketches a row of these parts of a prompt, in the order in which they stand in it; ``known`` prefixes of rows
    before are held once, and this row's are put there."""
    content = [part.encode(errors="surrogatepass") for part in parts if part]
    total = sum(map(len, content))
    ends, end = set[int](), 0
    for part in islice(content, _MOST_PARTS):
        end += len(part)
        ends.add(end)
    length = SHORTEST_PREFIX
    while length < min(total, LONGEST_PREFIX):
        ends.add(length)
        length *= 2
    ends.add(total)
    prefixes = _prefixes(b"".join(content), sorted(ends - {0}), {} if known is None else known)
    return RowSketch(line, at, total, USUAL_OUTPUT if output_limit is None else output_limit, prefixes)


def parts_of_body(body: Mapping[str, Any]) -> list[str]:
    """The parts of a request's prompt, of a body that may hold anything."""
    entity, prompt, messages = body.get("entity"), body.get("prompt"), body.get("messages")
    parts = [str(value) for _, value in sorted(entity.items())] if isinstance(entity, dict) else []
    parts += [prompt] if isinstance(prompt, str) else []
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else [{"text": content}]:
            text = part.get("text") if isinstance(part, dict) else None
            parts += [text] if isinstance(text, str) else []
    return parts


def output_limit_of_body(body: Mapping[str, Any]) -> int | None:
    """The bound that a body sets to its output, in tokens."""
    for name in ("max_completion_tokens", "max_tokens"):
        limit = body.get(name)
        if isinstance(limit, int) and 0 < limit < 1_000_000:
            return limit
    return None


def _prefixes(content: bytes, ends: Sequence[int], known: dict[int, Prefix]) -> tuple[Prefix, ...]:
    hasher, begin, prefixes = hashlib.blake2b(digest_size=8), 0, list[Prefix]()
    for end in ends:
        hasher.update(content[begin:end])
        digest = int.from_bytes(hasher.copy().digest())
        prefixes.append(known.setdefault(digest, Prefix(digest, end)))
        begin = end
    return tuple(prefixes)
