"""The project of the kill harness that works at once: the views of the other one, and an application that pins them.

Applied twice, with another window of ``counted.lately`` each time, so that an earlier release reads an earlier
definition version.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path

from tests.chaos.harness.feature_chaos_project import SHOPS, write_project, write_rows

APPLICATION = "desk"
HOURS = (2, 3)
"""Hours of ``counted.lately`` in each definition version, in the order in which they are applied."""

SNAPSHOTS_KEPT = 6.0
"""Seconds that a snapshot stays after it was last served; longer than a round."""

_APPLICATION = """

from antiphon import Application, Decoding, Figure, Outcome, Prompt, Reuse  # noqa: E402

paces = Source.table("paces", path="@PACES@", event_time="asked", available_at="known")

desk = Application(
    "desk", ungated="a test asks at once",
    purpose="chaos",
    owner="chaos",
    entities=[shop],
    features=[Counted, Summed],
    model="simulated",
    prompt=Prompt(
        template="{{ entity.shop }}: {{ features.counted.lately }} of {{ features.counted.orders }}, "
        "{{ features.summed.amount }}. {{ question }}"
    ),
    decoding=Decoding(max_tokens=24),
    figures=[
        Figure("counted.orders", step=1), Figure("counted.lately", step=1), Figure("summed.amount", step=0.01),
    ],
    output={
        "type": "object",
        "properties": {"pace": {"enum": ["busy", "quiet"]}},
        "required": ["pace"],
        "additionalProperties": False,
    },
    outcome=Outcome("pace", positive="busy", history=paces),
    reuse=Reuse("never", identical_prompts=False),
)
"""


def write_crowd(root: Path, seed: int, base: datetime, redis: str | None = None) -> None:
    """Write the project in its first version, with its sources.

    Args:
        base: the moment by which everything has happened; a whole second.
        redis: URL of the online store; ``None`` is the embedded one.
    """
    write_project(root, seed, base, redis)
    settings = (root / "antiphon.toml").read_text(encoding="utf-8")
    settings = settings.replace('snapshots_kept = "1s"', f'snapshots_kept = "{SNAPSHOTS_KEPT:g}s"')
    settings = settings.replace('_timeout = "1s"', '_timeout = "2s"')
    settings += '\n[engine]\nkind = "simulated"\nmodels = ["simulated"]\n'
    (root / "antiphon.toml").write_text(settings, encoding="utf-8")
    with (root / "definitions.py").open("a", encoding="utf-8") as definitions:
        definitions.write(_APPLICATION.replace("@PACES@", str(root / "paces.parquet")))
    drawn = random.Random(f"paces {seed}")
    rows = []
    for number in range(60):
        at = base - timedelta(hours=24) + timedelta(minutes=20 * number)
        pace = drawn.choice(("busy", "quiet"))
        rows.append({"shop": drawn.choice(SHOPS), "pace": pace, "asked": at, "known": at + timedelta(minutes=5)})
    write_rows(root / "paces.parquet", rows, "asked", ("shop", "pace"))


def redefine(root: Path) -> None:
    """The second version of the definitions."""
    file = root / "definitions.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(f'count(window="{HOURS[0]}h")', f'count(window="{HOURS[1]}h")'), encoding="utf-8")
