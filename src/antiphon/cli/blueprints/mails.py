"""Order mails of the extraction blueprint, with what a clerk entered of each. Invented, the same each time."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path

from antiphon.cli.blueprints.tables import write_table

SENDERS = ("acme", "blue", "cargo", "delta", "ember", "fjord")
PRODUCTS = ("chair", "desk", "lamp", "shelf", "stool")
DAYS = 40
PER_DAY = 12
LETTERS = 3

_TEXTS = (
    "Hello, please send us {quantity} {product}s. Our order number is {order}. Kind regards",
    "Order {order}: we need {quantity} {product}s for the office.",
    "We would like to order {quantity} pieces of the {product}, reference {order}. Thank you!",
    "Reference {order}. {quantity} {product}s, as last time, please.",
    "Could you deliver {quantity} {product}s under {order}?",
)


def write_mails(folder: Path, until: datetime) -> int:
    """Write the mails up to ``until`` (to the hour) with what was entered into ``mails.csv``, a night's new ones into
    ``night.csv``, and letters as files into a folder a sender below ``letters``; returns the number of all."""
    chance = random.Random(47)
    last = until.replace(minute=0, second=0, microsecond=0)
    rows = []
    for day in range(DAYS):
        for _ in range(PER_DAY):
            received = last - timedelta(days=day, seconds=chance.randrange(86_400))
            entered = received + timedelta(minutes=chance.randrange(5, 240))
            if entered < until:
                rows.append((received, entered, *draw_mail(chance)))
    rows.sort()
    columns = ("mail", "received", "entered", "sender", "question", "product", "quantity", "order")
    write_table(folder / "mails.csv", columns, ((f"m{number:05}", *row) for number, row in enumerate(rows, 1)))
    night = [draw_mail(chance) for _ in range(PER_DAY)]
    write_table(folder / "night.csv", ("sender", "question"), [mail[:2] for mail in night])
    letters = [draw_mail(chance) for _ in range(LETTERS)]
    for number, (sender, text, *_) in enumerate(letters, 1):
        place = folder / "letters" / f"sender={sender}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:03}.txt").write_text(f"{text}\n", encoding="utf-8")
    return len(rows) + len(night) + len(letters)


def draw_mail(chance: random.Random) -> tuple[str, str, str, int, str]:
    """Sender, text, product, quantity and order number of one mail."""
    product, quantity = chance.choice(PRODUCTS), chance.randrange(2, 60)
    order = f"{chance.choice('ABCDEFGH')}{chance.randrange(1_000, 10_000)}"
    text = chance.choice(_TEXTS).format(quantity=quantity, product=product, order=order)
    return chance.choice(SENDERS), text, product, quantity, order
