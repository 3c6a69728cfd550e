"""Sketches of requests: how long a prompt is about, and which beginnings of it others may share.

The rendered prompt is not known before a row is asked, but it begins as its parts do: what stands in every prompt of an
application comes first anyway, then what is said of its entity, then the conversation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from antiphon.batch.row_order import Prefix, Row

SHORTEST_PREFIX = 256
"""Bytes; about the chunk of tokens at whose ends engines keep beginnings."""

LONGEST_PREFIX = 32_768
"""Beyond so many bytes beginnings are not told apart, but for whole prompts."""

_MOST_PARTS = 6
USUAL_OUTPUT = 128
"""Tokens of a request that names no bound."""


def sketch(
    line: int, at: int, parts: Sequence[str], output_limit: int | None, known: dict[int, Prefix] | None = None
) -> Row:
    """A row of these parts of a prompt, in the order in which they stand in it.

    Args:
        known: prefixes of rows before, so that what is shared is held once; this row's are put there.
    """
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
    return Row(line, at, total, USUAL_OUTPUT if output_limit is None else output_limit, prefixes)


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
