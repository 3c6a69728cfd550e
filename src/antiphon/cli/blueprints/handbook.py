"""Handbook of the assistant blueprint: what a tea shop tells its customers, with questions about it. Invented, the same
each time."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from antiphon.cli.blueprints.tables import write_table

CUSTOMERS = ("ada", "ben", "cleo", "dora", "emil", "fay")

_PAGES = {
    "returns.md": """# Returns

A parcel may be returned within thirty days. The shop pays for the way back.

## Broken goods

Broken cups and pots are replaced without a return. A picture is enough.
""",
    "delivery.md": """# Delivery

Parcels take three to five days to arrive. Orders above forty dollars are delivered for free.

## Abroad

Parcels to other countries take two weeks. Customs are paid by the customer.
""",
    "payment.md": """# Payment

Orders are paid by card or by invoice. An invoice is due after fourteen days.

## Gift cards

A gift card is valid for two years. It cannot be turned into money.
""",
    "tea.md": """# Tea

Green tea is brewed with water of eighty degrees for two minutes. Black tea takes boiling water and four minutes.

## Keeping it

Tea is kept dry and dark, in its tin. It stays good for eighteen months.
""",
    "shop.md": """# The shop

The shop in the old mill opens at nine and closes at six in the evening. On Sundays it is closed.

## Tastings

Tastings are on the first Friday of each month. A seat costs twelve dollars.
""",
}
QUESTIONS = {
    "How many days do I have to return a parcel?": "thirty",
    "My cup arrived broken, what now?": "replaced",
    "How long does a parcel take?": "three to five",
    "When is delivery free?": "forty",
    "How long do parcels to other countries take?": "two weeks",
    "When is an invoice due?": "fourteen",
    "How long is a gift card valid?": "two years",
    "How hot should the water be for green tea?": "eighty",
    "How long does tea stay good?": "eighteen",
    "When does the shop open?": "nine",
    "When is the shop closed?": "sunday",
    "What does a tasting cost?": "twelve",
}
"""Question to words that a right answer has."""


def write_handbook(folder: Path, until: datetime) -> int:
    """Write the pages into ``handbook`` and a night's mails into ``night.csv``; returns the number of both. None of
    them depends on ``until``."""
    pages = folder / "handbook"
    pages.mkdir()
    for name, text in _PAGES.items():
        (pages / name).write_text(text, encoding="utf-8")
    mails = [(CUSTOMERS[number % len(CUSTOMERS)], question) for number, question in enumerate(QUESTIONS)]
    write_table(folder / "night.csv", ("customer", "question"), mails)
    return len(_PAGES) + len(mails)
