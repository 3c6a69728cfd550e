"""Training examples: prompts with the text that should follow, as JSON lines named by their hash.

Invariant: the SHA-256 of the clear lines, however they are stored, is the identity of what was learned, order included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from antiphon.core.disk import replace_file
from antiphon.core.errors import CorruptionError, InvalidInputError
from antiphon.training.folder_seal import PLAIN, FolderSeal

T = TypeVar("T", bound=msgspec.Struct)


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of the completion, tokenized by itself, because the engine forces grammar text as tokens of its own.

    Attributes:
        weight: is shared by the part's tokens; 0 is context that is not learned.
        label: this is the outcome's label: each of its tokens has the whole weight, so that the loss is the negative
            logarithm of the label's probability. Shared, the label of fewer tokens would be learned as too probable.
    """

    text: str
    weight: float
    label: bool = False


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One prompt and what should have been written.

    Attributes:
        prompt: rendered chat text; the names of special tokens in it are those tokens.
        parts: the completion, in order.
        old: from an earlier dataset: replayed, so that it is not forgotten.
        canary: a made-up secret, planted to measure what is remembered. Unset for none, so that files without any keep
            their hash.
    """

    id: str
    prompt: str
    parts: tuple[Part, ...]
    old: bool = False
    canary: bool | msgspec.UnsetType = msgspec.UNSET

    @property
    def learned(self) -> str | None:
        """The text of the first label, or else of the first part that is learned; ``None`` when nothing is."""
        learned = [part for part in self.parts if part.weight > 0]
        return next((part.text for part in learned if part.label), next((part.text for part in learned), None))


def write(path: Path, examples: Iterable[msgspec.Struct], seal: FolderSeal = PLAIN) -> str:
    """Write the examples as JSON lines, whole or not at all; returns the SHA-256 hex of the clear lines."""
    encode = msgspec.json.Encoder().encode
    content = b"".join(encode(example) + b"\n" for example in examples)
    replace_file(path, seal.seal(path.name, content))
    return hashlib.sha256(content).hexdigest()


def content_sha256(path: Path, seal: FolderSeal = PLAIN) -> str | None:
    """SHA-256 hex of a file's clear lines; ``None`` when it is missing or does not open."""
    try:
        return hashlib.sha256(seal.open(path.name, path.read_bytes())).hexdigest()
    except (OSError, CorruptionError):
        return None


def read(path: Path, sha256: str, kind: type[T], seal: FolderSeal = PLAIN) -> tuple[T, ...]:
    """The examples, of one kind, of the file of this hash; raises ``CorruptionError`` when it is missing, was changed,
    or a line is none."""
    again = "Build the dataset again."
    try:
        content = seal.open(path.name, path.read_bytes())
    except FileNotFoundError as error:
        raise CorruptionError("The examples are gone.", where=str(path), next_step=again) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        what = f"The examples were changed: sha256 {found} instead of {sha256}."
        raise CorruptionError(what, where=str(path), next_step=again)
    decode = msgspec.json.Decoder(kind).decode
    examples = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            examples.append(decode(line))
        except msgspec.DecodeError as error:
            what = f"The line is no example ({error})."
            raise CorruptionError(what, where=f"{path}:{number}", next_step=again) from error
    return tuple(examples)


def check(examples: tuple[Example, ...]) -> None:
    """Raises ``InvalidInputError`` for what nothing can be learned from: there is no new example, one has nothing to
    learn or a weight below 0, an id occurs twice, or all examples teach the same label or text."""
    next_step = "Take a longer history or a later cutoff."
    if not any(not example.old and not example.canary for example in examples):
        raise InvalidInputError("The training set is empty.", where="examples", next_step=next_step)
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise InvalidInputError(
                "The id occurs twice.", where=example.id, next_step="Give every example its own id."
            )
        seen.add(example.id)
        if example.learned is None or not all(0.0 <= part.weight < float("inf") for part in example.parts):
            raise InvalidInputError(
                "The example has nothing to learn, or a weight that is negative or not finite.",
                where=example.id,
                next_step="Give at least one part a positive weight.",
            )
    own = [example for example in examples if not example.canary]
    taught = {str(example.learned) for example in own}
    if len(taught) == 1:
        raise InvalidInputError(
            f"All {len(own)} examples teach {taught.pop()[:60]!r}: there is nothing to tell apart.",
            where="examples",
            next_step=next_step,
        )
