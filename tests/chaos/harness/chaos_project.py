"""The small project the kill harness runs: two views of one stream that are published together, one application.

Amounts are positive whole numbers, so that after so many orders of a shop exactly one sum is right: the count and
the sum of one request tell whether both views were read from one state.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from tests.harness.ports import free_port

SHOPS = tuple(f"shop-{number}" for number in range(5))
STREAM = "orders"
APPLICATION = "desk"
COUNT, SUM = "counted.orders", "summed.amount"
QUESTION = "Question "
"""The beginning of what is asked online under load, each question once."""

_DEFINITIONS = '''"""What the kill harness serves."""

from antiphon import Application, Decoding, Entity, Figure, Prompt, Reuse, Source, col, count, feature_view
from antiphon import sum as total

shop = Entity("shop", keys=["shop"])
orders = Source.stream("orders", event_time="ordered", available_at="known", event_id="order_id")


@feature_view(entity=shop, source=orders, owner="chaos")
class Counted:
    """How many orders."""

    orders = count(window="28d")


@feature_view(entity=shop, source=orders, owner="chaos")
class Summed:
    """What they came to."""

    amount = total(col.amount, window="28d", scale="1")


desk = Application(
    "desk", ungated="a test asks at once",
    purpose="chaos",
    owner="chaos",
    entities=[shop],
    features=[Counted, Summed],
    model="@MODEL@",
    prompt=Prompt(
        template="{{ entity.shop }}: {{ features.counted.orders }} of {{ features.summed.amount }}. {{ question }}"
    ),
    decoding=Decoding(max_tokens=24),
    figures=[Figure("counted.orders", step=1), Figure("summed.amount", step=1)],
    reuse=Reuse("never", identical_prompts=False),
)
'''

_SETTINGS = """[project]
name = "chaos"

[engine]
kind = "@KIND@"
models = ["@MODEL@"]
slots = 8

[gateway]
port = @PORT@
batch_concurrency = 2

[worker]
lease = "3s"
"""


class ChaosProject(msgspec.Struct, frozen=True):
    """A project on disk and where its gateway listens; on one of several hosts, the host's view of it."""

    root: Path
    port: int
    model: str
    address: str = "127.0.0.1"
    folder: str = ".antiphon"

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def directory(self) -> Path:
        """The project's own files."""
        return self.root / self.folder

    @property
    def key(self) -> str:
        """The administrator's key, made by the first start."""
        return (self.directory / "keys" / "admin.key").read_text(encoding="utf-8").strip()


def write_project(root: Path, kind: str, more: str = "") -> ChaosProject:
    """Write the project; ``kind`` is ``simulated`` or ``llamacpp``, ``more`` are further sections of its settings."""
    model = "smollm2-135m" if kind == "llamacpp" else "simulated"
    port = free_port()
    root.mkdir(parents=True, exist_ok=True)
    (root / "definitions.py").write_text(_DEFINITIONS.replace("@MODEL@", model), encoding="utf-8")
    settings = _SETTINGS.replace("@KIND@", kind).replace("@MODEL@", model).replace("@PORT@", str(port))
    (root / "antiphon.toml").write_text(settings + more, encoding="utf-8")
    return ChaosProject(root, port, model)
