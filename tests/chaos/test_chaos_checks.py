"""Each check finds the violation it is there for, in evidence that is otherwise whole."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.chaos.harness.chaos_checks import CHECKS, check_all
from tests.chaos.harness.chaos_evidence import Acknowledged, Evidence, FoundFile, OrderedJob, Refused

GOOD = FoundFile(True, True)


def receipt(prediction: str = "p1", **fields: Any) -> dict[str, Any]:
    features = [
        {"name": "counted.orders", "value": 2, "definition_version": "v1", "snapshot": "sc2"},
        {"name": "summed.amount", "value": 12, "definition_version": "v1", "snapshot": "ss2"},
    ]
    attempt = {"prompt_blob": "b1", "text_blob": "b2", "json_schema_blob": None}
    return {
        "prediction": prediction, "publication": 2, "features": features, "entity_blob": "b3", "text_blob": "b2",
        "question_blob": None, "attempts": [attempt], "entity": {"shop": "a"}, "text": "Hello.", **fields,
    }  # fmt: skip


def manifest(offset: int, file: str) -> dict[str, Any]:
    return {"as_of": f"t{offset}", "stream_offset": offset, "files": [{"path": file}]}


def publication(number: int, **fields: Any) -> dict[str, Any]:
    snapshots = {"counted@v1": f"sc{number}", "summed@v1": f"ss{number}"}
    return {"number": number, "base": number - 1, "reason": "", "snapshots": snapshots, **fields}


ROWS = tuple((line, {"line": f"l{line}", "answer_error": None, "answer_prediction": "p1"}) for line in range(2))
WHOLE = Evidence(
    acknowledged=(Acknowledged("p1", 2, "Hello.", 1),),
    refused=(Refused("a question", 503, "unavailable"),),
    pushed=frozenset({"e1", "e2"}),
    jobs=(OrderedJob("j", ("l0", "l1"), Path("out")),),
    settled={"a": "p1", "b": "p2"},
    receipts={
        "p1": receipt(),
        "p2": receipt(
            "p2",
            entity={"shop": "b"},
            features=[
                {"name": "counted.orders", "value": 1, "definition_version": "v1", "snapshot": "sc2"},
                {"name": "summed.amount", "value": 5, "definition_version": "v1", "snapshot": "ss2"},
            ],
        ),
    },
    blobs=frozenset({"b1", "b2", "b3"}),
    publications=(publication(1), publication(2)),
    snapshots={f"s{view}{number}": manifest(number, "f") for view in "cs" for number in (1, 2)},
    lake={f"s{view}{number}/f": GOOD for view in "cs" for number in (1, 2)},
    online={"sc2": GOOD, "ss2": GOOD, "sc1": FoundFile(False, False), "ss1": FoundFile(False, False)},
    events=((1, "e1", "a", 7), (2, "e2", "b", 5), (3, "e3", "a", 5)),
    job_status={"j": "completed"},
    job_rows={"j": ROWS},
    outputs={"j": tuple(payload for _, payload in ROWS)},
)


def test_whole_evidence_passes_every_check() -> None:
    assert check_all(WHOLE) == {name: [] for name in CHECKS}


def with_receipt(**fields: Any) -> dict[str, Any]:
    return {"receipts": {**WHOLE.receipts, "p1": receipt(**fields)}}


def with_features(count: int, amount: int, snapshot: str = "sc2") -> dict[str, Any]:
    return with_receipt(
        features=[
            {"name": "counted.orders", "value": count, "definition_version": "v1", "snapshot": snapshot},
            {"name": "summed.amount", "value": amount, "definition_version": "v1", "snapshot": "ss2"},
        ]
    )


@pytest.mark.parametrize(
    ("check", "change", "says"),
    [
        ("no acknowledged receipt lost", {"receipts": {"p2": WHOLE.receipts["p2"]}}, "p1 was acknowledged and has no"),
        ("no acknowledged receipt lost", {"blobs": frozenset({"b1", "b3"})}, "p1 names the text b2"),
        ("no acknowledged receipt lost", {"acknowledged": (Acknowledged("p1", 1, "Hello."),)}, "another publication"),
        ("no acknowledged receipt lost", {"acknowledged": (Acknowledged("p1", 2, "Hell."),)}, "another text"),
        ("no acknowledged receipt lost", {"acknowledged": WHOLE.acknowledged * 2}, "acknowledged twice"),
        ("no torn read", with_features(2, 12, "sc1"), "counted.orders is of sc1, the publication has sc2"),
        ("no torn read", with_features(2, 7), "2 orders that come to 7"),
        ("no torn read", with_features(3, 12), "3 orders that come to 12"),
        ("no torn read", with_receipt(publication=3), "publication 3, which is not there"),
        ("publications whole", {"publications": (publication(1), publication(3))}, r"numbered \[1, 3\]"),
        ("publications whole", {"snapshots": {k: v for k, v in WHOLE.snapshots.items() if k != "ss1"}}, "ss1 has no"),
        ("publications whole", {"lake": {**WHOLE.lake, "sc1/f": FoundFile(True, False)}}, "file f is changed"),
        ("publications whole", {"lake": {}}, "file f is missing"),
        (
            "publications whole",
            {"online": {**WHOLE.online, "sc2": FoundFile(False, False)}},
            "online file of sc2 is mis",
        ),
        (
            "publications whole",
            {"online": {**WHOLE.online, "sc1": FoundFile(True, False)}},
            "online file of sc1 is cha",
        ),
        ("no half-published view", {"snapshots": {**WHOLE.snapshots, "ss2": manifest(1, "f")}}, "2 is of 2 moments"),
        (
            "no half-published view",
            {"publications": (publication(1, snapshots={"counted@v1": "sc1"}), publication(2))},
            "publication 1",
        ),
        ("publications in order", {"acknowledged": (Acknowledged("p1", 2, "Hello.", 3),)}, "asked for publication 3"),
        ("one batch row a line", {"job_status": {"j": "running"}}, "j is running"),
        ("one batch row a line", {"job_rows": {"j": ROWS[:1]}}, r"rows \[1\] are missing"),
        ("one batch row a line", {"job_rows": {"j": (*ROWS, (2, ROWS[1][1]))}}, r"\[2\] are too many"),
        ("one batch row a line", {"outputs": {"j": None}}, "no output file"),
        ("one batch row a line", {"outputs": {"j": tuple(p for _, p in ROWS[::-1])}}, "not its input's"),
        ("one batch row a line", {"outputs": {"j": tuple(p for _, p in (*ROWS, ROWS[0]))}}, "3 lines"),
        (
            "one batch row a line",
            {"outputs": {"j": tuple({**p, "answer_text": "x"} for _, p in ROWS)}},
            "something else",
        ),
        ("one batch row a line", {"receipts": {"p2": WHOLE.receipts["p2"]}}, "line 0 has no receipt"),
        ("no event lost", {"events": WHOLE.events[1:]}, "e1 was acknowledged and is lost"),
        ("no event lost", {"events": (*WHOLE.events, (4, "e1", "a", 7))}, "e1 is in the log 2 times"),
        ("no event lost", {"events": (*WHOLE.events, (5, "e4", "a", 7))}, "holes"),
        ("one job an order", {"jobs_by_input": {"in.jsonl": 2, "b": 1}}, "2 jobs of the input in.jsonl"),
        (
            "one receipt a question",
            {"receipts": {name: receipt(name, question="Question 1?") for name in ("p1", "p2")}},
            "'Question 1.*' has 2 receipts",
        ),
        (
            "nothing committed late",
            {"stale_commits": ({"what": "step", "of": "run_1", "epoch": 1, "present": 2},)},
            "step of run_1 was written under epoch 1 while it was in 2",
        ),
        ("commands agree", {"complaints": ("audit verify ended with 1",)}, "audit verify ended"),
        ("features exact", with_features(1, 7), "a has 2 orders of 12, read were 1 of 7"),
        ("features exact", {"settled": {"a": "p9"}}, "read were None"),
        ("refusals fair", {"refused": (Refused("a question", 500, "internal_error"),)}, "answered 500"),
        ("refusals fair", {"refused": (Refused("a question", 503, None),)}, "answered 503 None"),
        ("refusals fair", {"refused": (Refused("a refresh", 404, "not_found"),)}, "404"),
        ("nothing left running", {"left_running": ("worker",)}, "worker still runs"),
    ],
)
def test_a_violation_is_found(check: str, change: dict[str, Any], says: str) -> None:
    found = CHECKS[check](msgspec.structs.replace(WHOLE, **change))
    assert found
    assert re.search(says, "; ".join(found)), found
