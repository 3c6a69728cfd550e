"""A real Feast in a folder: a repository with data, applied and materialized, and its feature server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx2
import pyarrow
import pyarrow.parquet
from tests.harness.ports import free_port

from antiphon.core.child_process import start_child

DEFINITIONS = """
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Bool, Float64, Int64, String

driver = Entity(name="driver", join_keys=["driver_id"])
rider = Entity(name="rider", join_keys=["rider_id"])

stats_source = FileSource(name="stats_source", path="data/stats.parquet", timestamp_field="event_timestamp")
trust_source = FileSource(name="trust_source", path="data/trust.parquet", timestamp_field="event_timestamp")

driver_stats = FeatureView(
    name="driver_stats",
    entities=[driver],
    ttl=timedelta(hours=6),
    schema=[
        Field(name="rate", dtype=Float64),
        Field(name="trips", dtype=Int64),
        Field(name="tier", dtype=String),
        Field(name="active", dtype=Bool),
    ],
    source=stats_source,
)
trust = FeatureView(
    name="trust",
    entities=[driver, rider],
    schema=[Field(name="score", dtype=Float64)],
    source=trust_source,
)
pricing = FeatureService(name="pricing", features=[driver_stats, trust])
"""

SETTINGS = """project: rides
registry: data/registry.db
provider: local
online_store:
  type: {store}
  {place}
entity_key_serialization_version: 3
"""

COMPUTED = """
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float64, Int64, String

HERE = Path(__file__).parent
driver = Entity(name="driver", join_keys=["driver_id"])
rider = Entity(name="rider", join_keys=["rider_id"])
stats_source = FileSource(
    name="stats_source", path=str(HERE / "data" / "stats.parquet"), timestamp_field="event_timestamp"
)
stats_pushed = PushSource(name="stats_pushed", batch_source=stats_source)
trust_source = FileSource(name="trust_source", path=f"{HERE}/data/trust.parquet", timestamp_field="event_timestamp")
stats = FeatureView(
    name="stats", entities=[driver], ttl=timedelta(days=3), source=stats_pushed,
    schema=[Field(name="rate", dtype=Float64), Field(name="trips", dtype=Int64), Field(name="tier", dtype=String)],
)
trust = FeatureView(
    name="trust", entities=[driver, rider], source=trust_source, schema=[Field(name="score", dtype=Float64)]
)
asked = RequestSource(name="asked", schema=[Field(name="distance", dtype=Float64), Field(name="seats", dtype=Int64)])


@on_demand_feature_view(
    sources=[stats, trust, asked],
    schema=[
        Field(name="fare", dtype=Float64), Field(name="places", dtype=Int64), Field(name="far", dtype=Bool),
        Field(name="label", dtype=String), Field(name="sure", dtype=Float64),
    ],
)
def offer(inputs: pd.DataFrame) -> pd.DataFrame:
    "What a ride costs."
    out = pd.DataFrame()
    base = inputs["rate"] * (inputs["distance"] + 1.5)
    out["fare"] = np.where(inputs["tier"] == "gold", base * 0.9, base)
    out["places"] = inputs["seats"] + 2 * inputs["trips"] - 1
    out["far"] = (inputs["distance"] > 10) & ~(inputs["tier"] == "bronze")
    out["label"] = inputs["tier"].str.lower()
    out["sure"] = (inputs["score"] - inputs["rate"]).abs().fillna(0.0) / 3
    return out


@on_demand_feature_view(
    sources=[stats, asked], schema=[Field(name="per_seat", dtype=Float64)], mode="python",
)
def shared(inputs: dict) -> dict:
    return {"per_seat": [rate / seats if seats > 1 else rate for rate, seats in zip(inputs["rate"], inputs["seats"])]}


pricing = FeatureService(name="pricing", features=[offer, shared])
"""

PREPARE = """
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from feast import FeatureStore
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total
root = Path(".").resolve()
apply_total(load_repo_config(root, root / "feature_store.yaml"), root, skip_source_validation=False)
now = datetime.now(timezone.utc)
FeatureStore(str(root)).materialize(now - timedelta(days=30), now + timedelta(minutes=1))
"""

READ = """
import json, sys
from feast import FeatureStore
asked = json.load(sys.stdin)
found = FeatureStore(".").get_online_features(features=asked["features"], entity_rows=asked["rows"]).to_dict()
json.dump(found, sys.stdout)
"""


def write_data(root: Path, until: datetime) -> None:
    """Hours of five drivers; the last one's newest row is two days old. No two rows share entity and instant."""
    stats: dict[str, list[Any]] = {
        name: [] for name in ("driver_id", "event_timestamp", "rate", "trips", "tier", "active")
    }
    trust: dict[str, list[Any]] = {name: [] for name in ("driver_id", "rider_id", "event_timestamp", "score")}
    for driver in range(1001, 1006):
        newest = until - timedelta(days=2 if driver == 1005 else 0, minutes=driver - 1000)
        for hour in range(72):
            row = (driver, newest - timedelta(hours=hour), (driver * 31 + hour * 7) % 1000 / 997.0, hour * 3 + driver,
                   ("gold", "silver", "bronze")[(driver + hour) % 3], (driver + hour) % 2 == 0)  # fmt: skip
            for name, value in zip(stats, row, strict=True):
                stats[name].append(value)
        for rider in ("a", "b|c"):
            for name, value in zip(trust, (driver, rider, newest, driver / 7.0), strict=True):
                trust[name].append(value)
    (root / "data").mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(stats), root / "data" / "stats.parquet")
    pyarrow.parquet.write_table(pyarrow.table(trust), root / "data" / "trust.parquet")


class FeastWorld:
    """A repository that the environment's Feast applied and materialized; :meth:`serve` starts its server."""

    def __init__(
        self,
        python: Path,
        root: Path,
        *,
        store: str = "sqlite",
        place: str = "path: data/online.db",
        definitions: str = DEFINITIONS,
    ) -> None:
        self.python = python
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.until = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
        write_data(root, self.until)
        (root / "feature_store.yaml").write_text(SETTINGS.format(store=store, place=place))
        (root / "rides.py").write_text(definitions)
        self.run(PREPARE)
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, script: str, said: str = "") -> str:
        """Run a script in Feast's environment; what it prints."""
        ended = subprocess.run(
            [str(self.python), "-W", "ignore", "-c", script], cwd=self.root, input=said, env=self._environment(),
            capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr[-4000:]
        return ended.stdout

    def online(self, features: list[str], rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        """What Feast itself serves."""
        found: dict[str, list[Any]] = json.loads(self.run(READ, json.dumps({"features": features, "rows": rows})))
        return found

    def serve(self) -> None:
        """Start the feature server, on the same port as before once it had one."""
        if not self.port:
            self.port = free_port()
        feast = self.python.with_name("feast")
        with (self.root / "server.log").open("ab") as log:
            self.process = start_child(
                [str(feast), "serve", "--host", "127.0.0.1", "--port", str(self.port), "--no-access-log"],
                cwd=self.root, env=self._environment(), stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        end = monotonic() + 90
        while True:
            try:
                if httpx2.get(f"{self.url}/health", timeout=2).status_code == 200:
                    return
            except httpx2.HTTPError:
                pass
            assert self.process.poll() is None, (self.root / "server.log").read_text()
            assert monotonic() < end, (self.root / "server.log").read_text()
            sleep(0.05)

    def signal(self, number: int) -> None:
        """Send a signal to the server and its workers."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """End the server."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self.process.wait(20)

    def _environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return {**clean, "FEAST_USAGE": "False"}
