#!/usr/bin/env python3
"""Check an Antiphon audit export or proof offline.

    python antiphon_verify.py FILE [--key KEY] [--witness CHECKPOINTS]

FILE is what ``antiphon audit export`` or ``antiphon audit prove`` wrote. KEY is the log's public key as it was kept
when the installation was set up (``antiphon audit key``), or any that took its place since: the file shows how each
handed over to the next. Without it only the key inside the file is used, which proves that the file is whole and not
who made it. CHECKPOINTS is a witness file: every checkpoint of this log in it must be
the beginning of the log that the file shows.

Exit code 0: everything holds. 1: something does not, and is named. 2: a file cannot be read.

Needs Python 3.9 or newer and the package ``cryptography``. The rules are RFC 6962, section 2.1 (hashes and proofs), and
C2SP's signed-note and tlog-checkpoint (checkpoints).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from typing import Any

PROOF = "antiphon audit proof 1"
EXPORT = "antiphon audit export 1"
COMMITTED = ("principal", "originator", "subject", "detail")

Key = tuple[str, bytes, bytes]
"""Name, key hash, public bytes."""


class VerificationError(Exception):
    """Something does not hold."""


def leaf(content: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + content).digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def left_size(count: int) -> int:
    """The largest power of two smaller than count (RFC 6962: k)."""
    power = 1
    while power * 2 < count:
        power *= 2
    return power


def root_from_path(hashed: bytes, number: int, count: int, path: list[bytes]) -> bytes:
    """The root that RFC 6962's PATH(number, D[count]) gives for a leaf."""
    if count == 1:
        if path:
            raise VerificationError("a path is too long")
        return hashed
    if not path:
        raise VerificationError("a path is too short")
    left = left_size(count)
    if number < left:
        return node(root_from_path(hashed, number, left, path[:-1]), path[-1])
    return node(path[-1], root_from_path(hashed, number - left, count - left, path[:-1]))


def roots_from_proof(old: int, count: int, whole: bool, old_root: bytes, path: list[bytes]) -> tuple[bytes, bytes]:
    """Both roots that RFC 6962's SUBPROOF(old, D[count], whole) gives."""
    if old == count:
        if whole:
            if path:
                raise VerificationError("a consistency proof is too long")
            return old_root, old_root
        if len(path) != 1:
            raise VerificationError("a consistency proof has a wrong length")
        return path[0], path[0]
    if not path:
        raise VerificationError("a consistency proof is too short")
    left = left_size(count)
    if old <= left:
        before, after = roots_from_proof(old, left, whole, old_root, path[:-1])
        return before, node(after, path[-1])
    before, after = roots_from_proof(old - left, count - left, False, old_root, path[:-1])
    return node(path[-1], before), node(path[-1], after)


def check_continues(old: dict[str, Any], new: dict[str, Any], path: list[bytes]) -> None:
    """Raise unless the checkpoint ``old`` is the beginning of ``new``."""
    if not 0 < old["size"] <= new["size"]:
        raise VerificationError(f"a checkpoint of {old['size']} records is witnessed, the file's has {new['size']}")
    before, after = roots_from_proof(old["size"], new["size"], True, old["root"], path)
    if before != old["root"] or after != new["root"]:
        raise VerificationError(f"the checkpoint of {old['size']} records is not the beginning of this log")


def read_key(text: str) -> Key:
    """NAME+HASH+BASE64 as its parts."""
    name, hashed, encoded = text.strip().split("+", 2)
    content = base64.b64decode(encoded, validate=True)
    if len(content) != 33 or content[0] != 1:
        raise VerificationError("the key is no Ed25519 key")
    if hashlib.sha256(name.encode() + b"\n" + content).digest()[:4].hex() != hashed:
        raise VerificationError("the key's hash is not its own")
    return name, bytes.fromhex(hashed), content[1:]


def check_signature(public: bytes, signature: bytes, content: bytes, otherwise: str) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    except InvalidSignature:
        raise VerificationError(otherwise) from None


def read_keys(head: dict[str, Any]) -> list[Key]:
    """The log's keys, oldest first; each signed that the next follows, and the next that it does."""
    earlier = head.get("earlier", [])
    keys = [read_key(text) for text in (*(each["key"] for each in earlier), head["key"])]
    for at, each in enumerate(earlier):
        old, new = keys[at], keys[at + 1]
        if old[0] != new[0]:
            raise VerificationError("an earlier key is of another log")
        one, other = base64.b64encode(old[2]).decode(), base64.b64encode(new[2]).decode()
        said = f"antiphon audit key 1\n{one}\n{other}\n"
        for signer, name in ((old, "signature"), (new, "countersignature")):
            signature = base64.b64decode(each[name], validate=True)
            check_signature(signer[2], signature, said.encode(), "a key did not hand over to the next one")
    return keys


def size_of(note: str, name: str) -> int:
    """The size that a checkpoint of this log says, before any signature is looked at."""
    lines = note.partition("\n\n")[0].split("\n")
    if len(lines) != 3 or lines[0] != name or not lines[1].isdigit():
        raise VerificationError("a checkpoint is none of this log")
    return int(lines[1])


def read_checkpoint(note: str, keys: list[Key]) -> dict[str, Any]:
    """Size and root of a checkpoint, once the signature of one of the keys holds."""
    name, known = keys[-1][0], {hashed: public for _, hashed, public in keys}
    size = size_of(note, name)
    body, _, signatures = note.partition("\n\n")
    body += "\n"
    for line in signatures.split("\n"):
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != "\u2014" or parts[1] != name:
            continue
        content = base64.b64decode(parts[2], validate=True)
        public = known.get(content[:4])
        if public is None:
            continue
        otherwise = f"the signature of the checkpoint of {size} records does not hold"
        check_signature(public, content[4:], body.encode(), otherwise)
        return {"size": size, "root": base64.b64decode(body.split("\n")[2], validate=True)}
    raise VerificationError(f"the checkpoint of {size} records is not signed with this key")


def check_record(record: dict[str, Any], checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Read a record after verifying its inclusion in the log and its commitments."""
    number, content = record["sequence"], record["content"].encode()
    if not 0 <= number < checkpoint["size"]:
        raise VerificationError(f"record {number} lies behind the checkpoint")
    if root_from_path(leaf(content), number, checkpoint["size"], decoded(record["path"])) != checkpoint["root"]:
        raise VerificationError(f"record {number} is not in the log")
    said: dict[str, Any] = json.loads(content)
    if said["sequence"] != number:
        raise VerificationError(f"record {number} says that it is record {said['sequence']}")
    for field, opened in record["opened"].items():
        salt, text = bytes.fromhex(opened["salt"]), opened["text"].encode()
        committed = hashlib.sha256(salt + field.encode() + b"\x00" + text).hexdigest()
        if field not in COMMITTED or len(salt) != 16 or said[field] != committed:
            raise VerificationError(f"the {field} of record {number} is another one")
    return said


def decoded(path: list[str]) -> list[bytes]:
    return [base64.b64decode(each, validate=True) for each in path]


def documents(text: str) -> list[Any]:
    """The JSON documents of a file: one in all (a proof), or one a line (an export)."""
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


def check(found: list[Any], trusted: str | None) -> tuple[list[str], dict[str, Any], dict[int, bytes] | None]:
    """Check a whole file: what was found, in words; its checkpoint; roots by size that it proves, None for a proof."""
    lines = iter(found)
    head = next(lines)
    if head.get("format") not in (PROOF, EXPORT):
        raise VerificationError("this is neither an audit proof nor an audit export")
    keys = read_keys(head)
    shown = {head["key"].strip(), *(each["key"].strip() for each in head.get("earlier", []))}
    if trusted is not None and not shown & set(trusted.split()):
        raise VerificationError(f"the file was made with another key: {head['key']}")
    checkpoint = read_checkpoint(head["checkpoint"], keys[-1:])
    report = [f"log {keys[-1][0]}, checkpoint of {checkpoint['size']} records"]
    if len(keys) > 1:
        report.append(f"{len(keys) - 1} earlier keys handed over to this one")
    if head["format"] == PROOF:
        said = check_record(head["record"], checkpoint)
        report.append(f"record {said['sequence']} is in it: {said['action']}, {said['outcome']}")
        return report, checkpoint, None
    proved: dict[int, bytes] = {}
    for _ in range(head["witnessed"]):
        line = following(lines, "the file ends before its checkpoints do")
        old = read_checkpoint(line["checkpoint"], keys)
        check_continues(old, checkpoint, decoded(line["consistency"]))
        proved[old["size"]] = old["root"]
    end = head["first"] + head["records"]
    for number in range(head["first"], end):
        record = following(lines, f"the file ends before record {number}")
        if record["sequence"] != number:
            raise VerificationError(f"record {number} is missing")
        check_record(record, checkpoint)
    if next(lines, None) is not None:
        raise VerificationError("something follows the last record")
    report.append(
        f"records {head['first']} to {end - 1} are in it, none is left out; "
        f"{head['witnessed']} witnessed checkpoints are its beginning"
    )
    return report, checkpoint, proved


def following(lines: Iterator[Any], otherwise: str) -> dict[str, Any]:
    line: dict[str, Any] | None = next(lines, None)
    if line is None:
        raise VerificationError(otherwise)
    return line


def read_witness(text: str, keys: list[Key], most: int) -> Iterator[dict[str, Any]]:
    """Checkpoints of this log in a witness file, of so many records at most: later ones may be of a later key."""
    for block in text.replace("\n\n\u2014", "\x00\u2014").split("\n\n"):
        note = block.strip("\n").replace("\x00\u2014", "\n\n\u2014")
        if note.startswith(keys[-1][0] + "\n") and size_of(note, keys[-1][0]) <= most:
            yield read_checkpoint(note + "\n", keys)


def check_witness(text: str, keys: list[Key], checkpoint: dict[str, Any], proved: dict[int, bytes] | None) -> int:
    """Raise unless every witnessed checkpoint of this log is the shown log's beginning; how many there are.

    A proof shows one record under one checkpoint: that one must be among the witnessed.
    """
    count = 0
    for old in read_witness(text, keys, checkpoint["size"]):
        if old["size"] == checkpoint["size"]:
            holds = old["root"] == checkpoint["root"]
        elif proved is None:
            continue  # for an export to prove
        elif old["size"] not in proved:
            raise VerificationError(f"nothing in the file ties the witnessed checkpoint of {old['size']} records to it")
        else:
            holds = proved[old["size"]] == old["root"]
        if not holds:
            raise VerificationError(
                f"another history: the witnessed checkpoint of {old['size']} records has another root"
            )
        count += 1
    if proved is None and not count:
        raise VerificationError(f"the proof's checkpoint of {checkpoint['size']} records is not witnessed")
    return count


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check an Antiphon audit export or proof offline.")
    parser.add_argument("file")
    parser.add_argument("--key", help="the log's public key, NAME+HASH+BASE64, or a file of such keys")
    parser.add_argument("--witness", help="a witness file")
    options = parser.parse_args(arguments)
    trusted: str | None = options.key
    try:
        if trusted is not None and trusted.count("+") < 2:
            with open(trusted, encoding="utf-8") as stored:
                trusted = stored.read()
        with open(options.file, encoding="utf-8") as file:
            found = documents(file.read())
        lines, checkpoint, proved = check(found, trusted)
        if options.witness:
            with open(options.witness, encoding="utf-8") as file:
                count = check_witness(file.read(), read_keys(found[0]), checkpoint, proved)
            lines.append(f"{count} checkpoints of the witness file agree")
    except VerificationError as problem:
        say(f"WRONG: {problem}")
        return 1
    except (OSError, ImportError) as problem:
        sys.stderr.write(f"cannot check: {problem}\n")
        return 2
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as problem:
        say(f"WRONG: the file does not have its form ({type(problem).__name__}: {problem})")
        return 1
    for line in lines:
        say(line)
    say("everything holds" + ("" if trusted else "; give --key to prove who made it"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
