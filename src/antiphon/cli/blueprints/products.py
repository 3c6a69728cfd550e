"""Products of the enrichment blueprint, with the department of each. Invented, the same each time."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path

from antiphon.cli.blueprints.tables import write_table

NUMBER = 100
DAYS = 30

_DEPARTMENTS = {
    "kitchen": ("pan", "kettle", "knife set", "toaster", "mixing bowl", "coffee grinder"),
    "garden": ("rake", "watering can", "hedge shears", "flower pot", "garden hose", "wheelbarrow"),
    "sports": ("football", "tennis racket", "yoga mat", "dumbbell", "running belt", "swim goggles"),
    "office": ("stapler", "notebook", "desk lamp", "pen holder", "whiteboard", "paper shredder"),
}
_MADE_OF = ("steel", "wood", "bamboo", "plastic", "cotton", "glass")
_FOR = ("beginners", "every day", "small homes", "families", "professionals")


def write_products(folder: Path, until: datetime) -> int:
    """Write the products as they were listed up to ``until`` (to the hour) into ``products.csv``, the departments that
    were checked by hand into ``checked.csv``, and the keys of all into ``all.csv``; returns their number."""
    chance = random.Random(59)
    last = until.replace(minute=0, second=0, microsecond=0)
    products, checked = [], []
    for number in range(NUMBER):
        department = chance.choice(list(_DEPARTMENTS))
        name = chance.choice(_DEPARTMENTS[department])
        listed = last - timedelta(days=chance.uniform(1, DAYS))
        sku = f"p{number:04}"
        description = f"{name} made of {chance.choice(_MADE_OF)}, for {chance.choice(_FOR)}"
        products.append((sku, listed, description, f"{chance.uniform(4, 90):.2f}"))
        moment = listed + timedelta(hours=chance.uniform(1, 12))
        checked.append((f"c{number:04}", sku, moment, moment + timedelta(hours=2), department))
    write_table(folder / "products.csv", ("sku", "listed", "description", "price"), products)
    write_table(folder / "checked.csv", ("check", "sku", "moment", "checked", "department"), checked)
    write_table(folder / "all.csv", ("sku",), [(sku,) for sku, *_ in products])
    return NUMBER
