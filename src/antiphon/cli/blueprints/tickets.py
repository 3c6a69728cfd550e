"""Tickets of the triage blueprint: a hosting company's, with what agents made of them. Invented, the same each time."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path

from antiphon.cli.blueprints.tables import write_table

CUSTOMERS = ("acme", "blue", "cargo", "delta", "ember", "fjord", "grove", "harbor")
DAYS = 60
PER_DAY = 20

_SYSTEMS = ("shop", "mail server", "database", "checkout", "login page", "website", "API", "staging server")
_NOUNS = ("invoice", "password", "domain", "backup", "certificate", "report", "user list", "address")
_TEXTS = {
    "urgent": (
        "Our {system} is down and nobody can work. We need help at once.",
        "The {system} gives errors to every customer since this morning.",
        "All data of the {system} is gone after the update.",
        "We lose orders because the {system} does not answer.",
        "Somebody broke into the {system} and changed the {thing}.",
    ),
    "normal": (
        "The {system} has been slow for some of us since yesterday.",
        "The {thing} shows wrong figures for last month.",
        "One colleague cannot open the {thing} in the {system}.",
        "The {system} sent the {thing} twice.",
        "The export of the {thing} stops half way; the {system} works otherwise.",
    ),
    "low": (
        "How do I change the {thing} in the {system}?",
        "It would be nice if the {system} showed the {thing} first.",
        "Please send me a copy of the {thing}.",
        "Where do I find the {thing} of the {system}?",
        "Thank you for the quick help with the {thing}.",
    ),
}
_SHARES = {"urgent": 0.2, "normal": 0.4, "low": 0.4}
_SUMMARIES = {"urgent": "{system} outage", "normal": "fault with {system} or {thing}", "low": "question about {thing}"}
_MISTAKEN = 0.03
"""Share of tickets that an agent labeled otherwise than their text says: no model gets all of them right."""


def write_tickets(folder: Path, until: datetime) -> int:
    """Write the tickets up to ``until`` (to the hour) into ``tickets.csv``, and a night's new ones without an urgency
    into ``night.csv``; returns the number of both.

    A ticket is known when it is resolved: ``opened`` is its event time, ``resolved`` is when its urgency counts.
    """
    chance = random.Random(31)
    last = until.replace(minute=0, second=0, microsecond=0)
    rows = []
    for day in range(DAYS):
        for _ in range(PER_DAY):
            opened = last - timedelta(days=day, seconds=chance.randrange(86_400))
            resolved = opened + timedelta(minutes=chance.randrange(10, 600))
            if resolved < until:
                rows.append((opened, resolved, *draw_ticket(chance)))
    rows.sort()
    columns = ("ticket", "opened", "resolved", "customer", "question", "urgency", "summary")
    write_table(folder / "tickets.csv", columns, ((f"t{number:05}", *row) for number, row in enumerate(rows, 1)))
    night = [draw_ticket(chance) for _ in range(PER_DAY)]
    write_table(folder / "night.csv", ("customer", "question"), [ticket[:2] for ticket in night])
    return len(rows) + len(night)


def draw_ticket(chance: random.Random) -> tuple[str, str, str, str]:
    """Customer, text, urgency and summary of a ticket."""
    urgency = chance.choices(list(_SHARES), list(_SHARES.values()))[0]
    names = {"system": chance.choice(_SYSTEMS), "thing": chance.choice(_NOUNS)}
    text = chance.choice(_TEXTS[urgency]).format(**names)
    said = chance.choice(list(_SHARES)) if chance.random() < _MISTAKEN else urgency
    return chance.choice(CUSTOMERS), text, said, _SUMMARIES[urgency].format(**names)
