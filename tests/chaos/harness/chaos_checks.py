"""The invariants the kill harness holds the evidence against. Pure functions; each returns what it found wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from tests.chaos.harness.chaos_evidence import Evidence
from tests.chaos.harness.chaos_project import COUNT, QUESTION, SUM

PERMITTED = frozenset({429, 502, 503, 504})
"""What a request may be told while something is down. Anything else would blame the caller, or nobody."""


def receipts_kept(found: Evidence) -> list[str]:
    """Every acknowledged prediction has its receipt, with every text it names, and the text is the client's."""
    wrong = []
    for acknowledged in found.acknowledged:
        receipt = found.receipts.get(acknowledged.prediction)
        if receipt is None:
            wrong.append(f"{acknowledged.prediction} was acknowledged and has no receipt")
        elif receipt["publication"] != acknowledged.publication:
            wrong.append(f"{acknowledged.prediction} said another publication than its receipt")
        elif receipt["text"] != acknowledged.text:
            wrong.append(f"{acknowledged.prediction} was answered with another text than its receipt keeps")
    wrong += [
        f"{p} was acknowledged twice" for p, n in Counter(a.prediction for a in found.acknowledged).items() if n > 1
    ]
    for prediction, receipt in found.receipts.items():
        wrong += [
            f"{prediction} names the text {blob[:12]}, which is not there" for blob in _texts(receipt) - found.blobs
        ]
    return wrong


def no_torn_read(found: Evidence) -> list[str]:
    """Every feature of a receipt comes from its publication, and count and sum are of one state of the stream."""
    wrong = []
    published = {publication["number"]: publication["snapshots"] for publication in found.publications}
    sums = _sums(found)
    for prediction, receipt in found.receipts.items():
        features = {feature["name"]: feature for feature in receipt["features"]}
        if not features:
            continue
        snapshots = published.get(receipt["publication"])
        if snapshots is None:
            wrong.append(f"{prediction} was made from publication {receipt['publication']}, which is not there")
            continue
        for name, feature in features.items():
            key = f"{name.partition('.')[0]}@{feature['definition_version']}"
            if snapshots.get(key) != feature["snapshot"]:
                wrong.append(
                    f"{prediction}: {name} is of {feature['snapshot']}, the publication has {snapshots.get(key)}"
                )
        count, amount = features[COUNT]["value"] or 0, features[SUM]["value"] or 0
        of_shop = sums.get((receipt["entity"] or {}).get("shop", ""), [0])
        if not (count < len(of_shop) and of_shop[int(count)] == amount):
            wrong.append(f"{prediction}: {count} orders that come to {amount} were at no time so")
    return wrong


def publications_whole(found: Evidence) -> list[str]:
    """Numbers have no gap; each publication's snapshots have manifests and lake files; the current one is sealed."""
    wrong = []
    numbers = [publication["number"] for publication in found.publications]
    if numbers != list(range(1, len(numbers) + 1)):
        wrong.append(f"the publications are numbered {numbers}")
    for publication in found.publications:
        for key, snapshot in publication["snapshots"].items():
            where = f"publication {publication['number']}, {key}"
            manifest = found.snapshots.get(snapshot)
            if manifest is None:
                wrong.append(f"{where}: {snapshot} has no manifest")
                continue
            for file in manifest["files"]:
                stored = found.lake.get(f"{snapshot}/{file['path']}")
                if stored is None or not stored.intact:
                    wrong.append(f"{where}: the lake file {file['path']} is {_state(stored)}")
            sealed = found.online.get(snapshot)
            current = publication["number"] == numbers[-1]
            if (sealed is None or not sealed.intact) and (current or (sealed is not None and sealed.present)):
                wrong.append(f"{where}: the online file of {snapshot} is {_state(sealed)}")
    return wrong


def published_together(found: Evidence) -> list[str]:
    """Views that are refreshed together change together: one moment and one offset in each publication."""
    wrong = []
    for publication in found.publications:
        manifests = [found.snapshots[one] for one in publication["snapshots"].values() if one in found.snapshots]
        states = {(manifest["as_of"], manifest["stream_offset"]) for manifest in manifests}
        if len(states) > 1 or len(publication["snapshots"]) != 2:
            wrong.append(f"publication {publication['number']} is of {len(states)} moments: {sorted(map(str, states))}")
    return wrong


def publications_seen_in_order(found: Evidence) -> list[str]:
    """Who asks for at least publication N is never answered from an earlier one."""
    return [
        f"{seen.prediction} asked for publication {seen.minimum} and got {seen.publication}"
        for seen in found.acknowledged
        if seen.minimum is not None and (seen.publication is None or seen.publication < seen.minimum)
    ]


def batch_rows_once(found: Evidence) -> list[str]:
    """Every job is completed with one row a line, in the catalog and in its file, each with its receipt."""
    wrong = []
    for job in found.jobs:
        if found.job_status.get(job.job) != "completed":
            wrong.append(f"{job.job} is {found.job_status.get(job.job)}")
        rows = found.job_rows.get(job.job, ())
        lines = [line for line, _ in rows]
        if lines != list(range(len(job.lines))):
            missing, surplus = set(range(len(job.lines))) - set(lines), set(lines) - set(range(len(job.lines)))
            wrong.append(f"{job.job}: rows {sorted(missing)} are missing, {sorted(surplus)} are too many")
        written = found.outputs.get(job.job)
        if written is None:
            wrong.append(f"{job.job} has no output file")
        else:
            names = tuple(row["line"] for row in written)
            if names != job.lines:
                wrong.append(f"{job.job}: its file has {len(names)} lines, not its input's {len(job.lines)} in order")
            if [dict(payload) for _, payload in rows] != [dict(row) for row in written]:
                wrong.append(f"{job.job}: its file says something else than its rows")
        for line, payload in rows:
            if payload["answer_error"] is not None:
                wrong.append(f"{job.job}: line {line} failed: {payload['answer_error']}")
            elif payload["answer_prediction"] not in found.receipts:
                wrong.append(f"{job.job}: line {line} has no receipt")
    return wrong


def questions_once(found: Evidence) -> list[str]:
    """A question, which a client asks once and never again, has one receipt at most."""
    counted = Counter(receipt.get("question") for receipt in found.receipts.values())
    return [f"{question!r} has {n} receipts" for question, n in counted.items() if n > 1 and _online(question)]


def orders_once(found: Evidence) -> list[str]:
    """An order that was sent again, because nobody had answered it, is one job."""
    return [f"there are {n} jobs of the input {name}" for name, n in found.jobs_by_input.items() if n > 1]


def nothing_committed_late(found: Evidence) -> list[str]:
    """Whoever holds a run or a job by an epoch that has passed writes nothing any more."""
    return [
        f"a {one['what']} of {one['of']} was written under epoch {one['epoch']} while it was in {one['present']}"
        for one in found.stale_commits
    ]


def commands_agree(found: Evidence) -> list[str]:
    """The audit log verifies, and what was acknowledged can be explained."""
    return list(found.complaints)


def events_kept(found: Evidence) -> list[str]:
    """Every acknowledged event is in the log once, at offsets without a hole."""
    wrong = []
    offsets = [offset for offset, *_ in found.events]
    if offsets != list(range(1, len(offsets) + 1)):
        wrong.append("the log's offsets have holes")
    counted = Counter(event for _, event, *_ in found.events)
    wrong += [f"the event {event} is in the log {n} times" for event, n in counted.items() if n > 1]
    wrong += [f"the event {event} was acknowledged and is lost" for event in sorted(found.pushed - counted.keys())]
    return wrong


def features_exact(found: Evidence) -> list[str]:
    """When everything is consumed, every shop's count and sum are those of the whole log."""
    wrong = []
    sums = _sums(found)
    for shop, prediction in found.settled.items():
        receipt = found.receipts.get(prediction)
        features = {feature["name"]: feature["value"] for feature in receipt["features"]} if receipt else {}
        of_shop = sums.get(shop, [0])
        if (features.get(COUNT) or 0, features.get(SUM) or 0) != (len(of_shop) - 1, of_shop[-1]):
            wrong.append(
                f"{shop} has {len(of_shop) - 1} orders of {of_shop[-1]}, read were "
                f"{features.get(COUNT)} of {features.get(SUM)}"
            )
    return wrong


def refusals_fair(found: Evidence) -> list[str]:
    """A request that fails while something is down is told so, in the right shape."""
    counted = Counter((r.what, r.status, r.code) for r in found.refused if r.status not in PERMITTED or r.code is None)
    return [f"{what} was answered {status} {code} {n} times" for (what, status, code), n in counted.items()]


def nothing_left_running(found: Evidence) -> list[str]:
    """After the supervisor was asked to end, nothing it started runs on."""
    return [f"{name} still runs" for name in found.left_running]


CHECKS: dict[str, Callable[[Evidence], list[str]]] = {
    "no acknowledged receipt lost": receipts_kept,
    "no torn read": no_torn_read,
    "publications whole": publications_whole,
    "no half-published view": published_together,
    "publications in order": publications_seen_in_order,
    "one batch row a line": batch_rows_once,
    "one receipt a question": questions_once,
    "one job an order": orders_once,
    "nothing committed late": nothing_committed_late,
    "commands agree": commands_agree,
    "no event lost": events_kept,
    "features exact": features_exact,
    "refusals fair": refusals_fair,
    "nothing left running": nothing_left_running,
}
"""Name to check."""


def check_all(found: Evidence) -> dict[str, list[str]]:
    """Every check's findings; all empty when the invariants hold."""
    return {name: check(found) for name, check in CHECKS.items()}


def _online(question: str | None) -> bool:
    return question is not None and question.startswith(QUESTION)


def _texts(receipt: dict[str, Any]) -> set[str]:
    blobs = {receipt["entity_blob"], receipt["text_blob"], receipt["question_blob"], receipt.get("inputs_blob")}
    blobs |= {receipt.get("hints_blob"), receipt.get("turn_blob")}
    for attempt in receipt["attempts"]:
        blobs |= {attempt["prompt_blob"], attempt["text_blob"], attempt["json_schema_blob"]}
    return {blob for blob in blobs if blob}


def _sums(found: Evidence) -> dict[str, list[int]]:
    """By shop: what its first 0, 1, 2 … orders come to, in the order of the log."""
    amounts: dict[str, list[int]] = {}
    for _, _, shop, amount in found.events:
        amounts.setdefault(shop, []).append(amount)
    return {shop: [0, *accumulate(of_shop)] for shop, of_shop in amounts.items()}


def _state(file: Any) -> str:
    return "missing" if file is None or not file.present else "changed"
