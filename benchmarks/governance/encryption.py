"""Encryption at rest: is anything readable on the disk, does a rotation cost an answer, and what does it cost at all?

Three parts, each over real processes (gateway, worker, simulated engine):

- *image*: words are planted through every way in (``WAYS``, and the text of an answer), processes are killed
  under load and in the middle of writing, and every byte of the project's own folder and of its folder for temporary
  files is searched. In plaintext the same search must find each word that comes to lie on a disk, or it shows nothing.
- *rotation*: questions are asked all the time while data keys are rotated, wrapped anew under a new wrapping key,
  everything is sealed anew, and another key signs the audit log.
- *cost*: requests per second of the gateway, in short slices that alternate between a project in plaintext and an
  encrypted one; and lookups of features in process, each entity for the first time and then again.

    python -m benchmarks.governance.encryption [--size ci|demo|full] [--part image|rotation|cost]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.governance.disk_image import search
from benchmarks.governance.encrypted_project import PASSPHRASE, SHOPS, Client, EncryptedProject, make, plant, serving

from antiphon.core.clock import SystemClock

SIZES = {
    "ci": {"rotation_seconds": 6, "rotations": 1, "slices": 4, "slice_seconds": 2.0, "lookups": 300},
    "demo": {"rotation_seconds": 20, "rotations": 3, "slices": 10, "slice_seconds": 3.0, "lookups": 2_000},
    "full": {"rotation_seconds": 120, "rotations": 10, "slices": 30, "slice_seconds": 5.0, "lookups": 3_000},
}
SEED = "w7"
ASKERS = 8
NOT_ON_DISK = {"refused-question"}
"""Ways whose words reach no disk in either mode: what is refused is not kept."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--part", choices=("image", "rotation", "cost"))
    options = parser.parse_args()
    size = SIZES[options.size]
    summary: dict[str, Any] = {
        "benchmark": "encryption",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": options.size,
        "seed": SEED,
    }
    if options.part in (None, "image"):
        summary["image"] = asyncio.run(image())
    if options.part in (None, "rotation"):
        summary["rotation"] = asyncio.run(rotation(size))
    if options.part in (None, "cost"):
        summary["cost"] = asyncio.run(cost(size))
    line = json.dumps(summary)
    results = Path(__file__).parents[1] / "results"
    results.mkdir(exist_ok=True)
    with (results / "encryption.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line)
    met = all(part.get("met", True) for part in summary.values() if isinstance(part, dict))
    sys.exit(0 if met else 1)


async def image(modes: tuple[str, ...] = ("plaintext", "encrypted")) -> dict[str, Any]:
    """Words found by mode; met when every planted word is found in plaintext and none in the encrypted project."""
    found: dict[str, dict[str, list[str]]] = {}
    for mode in modes:
        with tempfile.TemporaryDirectory(prefix="antiphon-image-") as folder:
            project = make(Path(folder) / mode, mode, SEED)
            words = await plant(project)
            places = await asyncio.to_thread(search, [project.directory, project.temporary], words.values())
            found[mode] = {way: places[word] for way, word in words.items()}
    ways = list(next(iter(found.values())))
    print(f"{'planted through':<20}" + "".join(f"{mode:>12}" for mode in found) + "   places in plaintext")
    for way in ways:
        counts = "".join(f"{len(found[mode][way]):>12}" for mode in found)
        print(f"{way:<20}{counts}   {', '.join(found.get('plaintext', {}).get(way, []))[:90]}")
    missed = [way for way, places in found.get("plaintext", {}).items() if not places and way not in NOT_ON_DISK]
    leaked = {way: places for way, places in found.get("encrypted", {}).items() if places}
    return {
        "words": len(ways),
        "found_plaintext": sum(bool(places) for places in found.get("plaintext", {}).values()),
        "found_encrypted": len(leaked),
        "leaked": leaked,
        "not_found_in_plaintext": missed,
        "met": not leaked and not missed,
    }


async def rotation(size: dict[str, Any]) -> dict[str, Any]:
    """Statuses of what was asked while every key was replaced; met when all were 200."""
    with tempfile.TemporaryDirectory(prefix="antiphon-rotation-") as folder:
        project = make(Path(folder) / "encrypted", "encrypted", SEED)
        async with serving(project), Client(project) as client:
            shops = [f"shop-{number}" for number in range(50)]
            await client.publish(shops, "a note", "first")
            statuses: Counter[int] = Counter()
            stop = asyncio.Event()

            async def ask(asker: int) -> None:
                number = 0
                while not stop.is_set():
                    number += 1
                    shop = shops[(asker * 7 + number) % len(shops)]
                    statuses[await client.status_of(shop, f"Question {asker}.{number % 40}?")] += 1

            askers = [asyncio.create_task(ask(number)) for number in range(ASKERS)]
            began = time.monotonic()
            acts = []
            for number in range(size["rotations"]):
                await client.publish(shops, "a note", f"again{number}")
                acts.append(await asyncio.to_thread(replace_every_key, project))
            left = size["rotation_seconds"] - (time.monotonic() - began)
            if left > 0:
                await asyncio.wait(askers, timeout=left)
            stop.set()
            await asyncio.gather(*askers)
            seconds = time.monotonic() - began
    failed = sum(count for status, count in statuses.items() if status != 200)
    sealed = [act["payloads"] for act in acts]
    print(f"{'rotations':<12}{'asked':>10}{'failed':>10}{'seconds':>10}   payloads and files sealed anew")
    print(f"{len(acts):<12}{sum(statuses.values()):>10}{failed:>10}{seconds:>10.1f}   {sealed}")
    left_over = sum(act["left_under_old_keys"] for act in acts)
    return {
        "rotations": len(acts),
        "asked": sum(statuses.values()),
        "failed": failed,
        "statuses": {str(status): count for status, count in statuses.items()},
        "seconds": round(seconds, 1),
        "resealed": sealed,
        "left_under_old_keys": left_over,
        "problems": sum(act["problems"] for act in acts),
        "met": failed == 0 and not any(act["problems"] for act in acts) and all(sealed) and left_over == 0,
    }


def replace_every_key(project: EncryptedProject) -> dict[str, int]:
    """New data keys, a new wrapping key, everything sealed anew, another key of checkpoints: as commands do it."""
    os.environ["BENCH_PASSPHRASE"] = PASSPHRASE
    from antiphon.governance.encryption.held_keys import LEASE_SECONDS
    from antiphon.services.governance.encryption import open_encryption

    with open_encryption(project.root) as encryption:
        made = set(encryption.rotate())
        time.sleep(LEASE_SECONDS)  # until no process seals with the key before
        found = encryption.rewrap(new_wrapping_key=True, reencrypt=True)
        checked = encryption.check()
        store = encryption.store
        store.trail.rotate_key(store.scope, "bench", "under load")
        audited = store.trail.verify(store.scope)
    index = {key.id for key in encryption_keys(project) if key.purpose == "index"}
    left = sum(count for key, count in checked.by_key.items() if key not in made | index)
    problems = len(found.problems) + len(checked.problems) + len(audited.problems)
    return {"payloads": found.payloads, "problems": problems, "left_under_old_keys": left}


def encryption_keys(project: EncryptedProject) -> Any:
    from antiphon.services.governance.encryption import open_encryption

    with open_encryption(project.root) as encryption:
        return encryption.status().keys


async def cost(size: dict[str, Any]) -> dict[str, Any]:
    """Ratios encrypted / plaintext of throughput and of the median lookup."""
    rates: dict[str, list[float]] = {"plaintext": [], "encrypted": []}
    lookups: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="antiphon-cost-") as folder:
        projects = {mode: make(Path(folder) / mode, mode, SEED) for mode in rates}
        shops = [f"shop-{number}" for number in range(SHOPS)]
        async with (
            serving(projects["plaintext"]), serving(projects["encrypted"]),
            Client(projects["plaintext"]) as clear, Client(projects["encrypted"]) as sealed,
        ):  # fmt: skip
            clients = {"plaintext": clear, "encrypted": sealed}
            for client in clients.values():
                await client.publish(shops, "a note", "first")
                await _rate(client, shops, 1.0)
            for number in range(size["slices"]):
                order = list(clients.items())
                for mode, client in order if number % 2 else reversed(order):
                    rates[mode].append(await _rate(client, shops, size["slice_seconds"]))
        for mode, project in projects.items():
            lookups[mode] = _lookups(project, shops[: size["lookups"]])
    ratios = [one / other for one, other in zip(rates["encrypted"], rates["plaintext"], strict=True)]
    print(f"{'':<26}{'plaintext':>12}{'encrypted':>12}{'ratio':>9}")
    medians = {mode: statistics.median(found) for mode, found in rates.items()}
    ratio = statistics.median(ratios)
    print(f"{'requests/s, median slice':<26}{medians['plaintext']:>12.0f}{medians['encrypted']:>12.0f}{ratio:>9.3f}")
    result: dict[str, Any] = {
        "requests_per_second": {mode: round(median, 1) for mode, median in medians.items()},
        "throughput_ratio": round(ratio, 3),
        "throughput_ratio_p10_p90": [round(_rank(ratios, share), 3) for share in (0.1, 0.9)],
        "slices": len(ratios),
    }
    for name in lookups["plaintext"]:
        clear_us, sealed_us = lookups["plaintext"][name], lookups["encrypted"][name]
        print(f"{f'lookup {name} p50, µs':<26}{clear_us:>12.1f}{sealed_us:>12.1f}{sealed_us / clear_us:>9.3f}")
        result[f"lookup_{name}_p50_us"] = {"plaintext": round(clear_us, 1), "encrypted": round(sealed_us, 1)}
        result[f"lookup_{name}_ratio"] = round(sealed_us / clear_us, 3)
    return result


async def _rate(client: Client, shops: list[str], seconds: float) -> float:
    """Questions answered per second by so many askers; each is new, so that it is generated, kept and committed."""
    until = time.monotonic() + seconds
    answered = 0

    async def ask(asker: int) -> None:
        nonlocal answered
        number = 0
        while time.monotonic() < until:
            number += 1
            question = f"{time.monotonic_ns()}?"
            status = await client.status_of(shops[(asker * 101 + number) % len(shops)], question)
            if status != 200:
                raise SystemExit(f"A question was answered with {status}.")
            answered += 1

    began = time.monotonic()
    await asyncio.gather(*(ask(number) for number in range(ASKERS)))
    return answered / (time.monotonic() - began)


def _lookups(project: EncryptedProject, shops: list[str]) -> dict[str, float]:
    """Median microseconds of one entity's lookup in both views: for the first time in a process, and again."""
    os.environ["BENCH_PASSPHRASE"] = PASSPHRASE
    from antiphon.governance.encryption.protection import protect
    from antiphon.services.features.platform import FeaturePlatform
    from antiphon.services.project.store import Store

    store = Store.open(project.root)
    protect(store.database, store.settings.encryption, store.scope, store.paths.root)
    platform = FeaturePlatform(store)
    reader = platform.reader(store.scope)
    views = {view.name: view.definition_version for view in platform.views().values()}
    as_of = SystemClock().now()
    reader.read(views, {"shop": shops[0]}, as_of)
    medians = {}
    for name in ("first", "again"):
        spent = []
        for shop in shops:
            began = time.perf_counter()
            reader.read(views, {"shop": shop}, as_of)
            spent.append(time.perf_counter() - began)
        medians[name] = 1e6 * statistics.median(spent)
    platform.close()
    store.close()
    return medians


def _rank(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


if __name__ == "__main__":
    main()
