"""The order of a job's rows: rows whose prompts begin alike go one after another.

An engine keeps few beginnings of prompts (``engine.prefixes``). Rows in the order of their file that take turns among
many beginnings find theirs dropped again; rows that follow each other find it kept.

Invariants: what comes out is a permutation of what goes in. No row goes more than ``behind`` places after its turn,
which is its place by line. Within that bound rows that share a beginning stand together, at every length of it.

Among beginnings, those come first that finish most rows a token computed (a shared beginning is computed once): Smith's
rule, which finishes most rows by any moment (W. E. Smith, *Various optimizers for single-stage production*, 1956). The
tree of prefixes is HyGen's for batch work (arXiv 2501.14808, section 4.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

BYTES_A_TOKEN = 4.0
"""Of a prompt, before any was measured: about that of English text."""

BEHIND = 4_096
"""Places by which a row may come after its turn."""


class Prefix(msgspec.Struct, frozen=True, gc=False):
    """A prompt's beginning: a digest of it, and how long it is."""

    digest: int
    bytes: int


class Row(msgspec.Struct, frozen=True):
    """One row as it is ordered.

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


def in_order(rows: Sequence[Row], behind: int = BEHIND) -> list[Row]:
    """The rows in the order in which they are to be asked."""
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

    def place(row: Row) -> list[tuple[float, int]]:
        shared = [(costs[one.digest] / counts[one.digest], firsts[one.digest]) for one in row.prefixes]
        return [*shared, (_own_cost(row), row.line)]

    planned = sorted(range(len(by_turn)), key=lambda turn: place(by_turn[turn]))
    return [by_turn[turn] for turn in _none_late(planned, behind)]


def distinct_bytes(rows: Iterable[Row]) -> int:
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


def _own_cost(row: Row) -> float:
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
    """The first place from ``at`` that is left, with the way there shortened for whoever asks next."""
    end = at
    while following[end] != end:
        end = following[end]
    while following[at] != end:
        following[at], at = end, following[at]
    return end
