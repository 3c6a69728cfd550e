"""What must hold of a batch that has ended, judged from what its client sent and got. No code of the product."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Evidence:
    """One batch as its client saw it.

    Attributes:
        sent: the input file; ``batch`` the last object that was retrieved.
        output, error: the files that it names, ``None`` for those that it does not.
        sizes: bytes that the service says each of them has.
        reference: text that a prompt is answered with in peace, by prompt.
    """

    sent: bytes
    batch: dict[str, Any]
    output: bytes | None
    error: bytes | None
    sizes: tuple[int | None, int | None]
    reference: dict[str, str]


def check(found: Evidence) -> dict[str, list[str]]:
    """Every check's violations by its name."""
    violations: dict[str, list[str]] = {
        name: [] for name in ("ended", "valid", "lost", "doubled", "strange", "counts", "order", "answers", "times")
    }
    asked = {line["custom_id"]: line for line in map(json.loads, found.sent.splitlines())}
    if found.batch["status"] != "completed":
        violations["ended"].append(f"it is {found.batch['status']}: {found.batch.get('errors')}")
    answers = _lines("output", found.output, found.sizes[0], violations["valid"])
    errors = _lines("error", found.error, found.sizes[1], violations["valid"])
    seen = Counter(line.get("custom_id") for line in answers + errors)
    violations["lost"] += [f"{name} has no line" for name in asked if name not in seen]
    violations["doubled"] += [f"{name} has {count} lines" for name, count in seen.items() if count > 1]
    violations["strange"] += [f"{name} was never asked" for name in seen if name not in asked]
    if len({line.get("id") for line in answers + errors}) != len(answers + errors):
        violations["doubled"].append("two lines have one id")
    counts = {"total": len(asked), "completed": len(answers), "failed": len(errors)}
    if found.batch["request_counts"] != counts:
        violations["counts"].append(f"{found.batch['request_counts']} for {counts}")
    position = {name: at for at, name in enumerate(asked)}
    for name, lines in (("output", answers), ("error", errors)):
        places = [position.get(line.get("custom_id"), -1) for line in lines]
        if places != sorted(places):
            violations["order"].append(f"the {name} file is not in the order of the input")
    violations["answers"] += [problem for line in answers if (problem := _wrong(line, asked, found.reference))]
    moments = [found.batch[name] for name in ("created_at", "in_progress_at", "finalizing_at", "completed_at")]
    if found.batch["status"] == "completed" and (None in moments or moments != sorted(moments)):
        violations["times"].append(f"{moments}")
    return violations


def _lines(name: str, content: bytes | None, size: int | None, violations: list[str]) -> list[dict[str, Any]]:
    if content is None:
        return []
    if len(content) != size:
        violations.append(f"the {name} file has {len(content)} bytes and is said to have {size}")
    if not content.endswith(b"\n"):
        violations.append(f"the {name} file has no last line end")
    lines = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            read = json.loads(line)
            if set(read) != {"id", "custom_id", "response", "error"}:
                violations.append(f"line {number} of the {name} file has {sorted(read)}")
            lines.append(read)
        except ValueError:
            violations.append(f"line {number} of the {name} file is no JSON")
    return lines


def _wrong(line: dict[str, Any], asked: dict[str, Any], reference: dict[str, str]) -> str | None:
    name, response = line.get("custom_id"), line.get("response") or {}
    if line.get("error") is not None or response.get("status_code") != 200 or name not in asked:
        return f"{name}: the line of the output file is no answer"
    prompt = asked[name]["body"]["messages"][-1]["content"]
    text = response["body"]["choices"][0]["message"]["content"]
    if reference.get(prompt, text) != text:
        return f"{name}: it has another request's answer"
    return None
