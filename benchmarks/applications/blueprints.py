"""The five blueprints with their users: what they ask, and a better idea and a bad one for each.

Tickets, mails and questions are drawn by the functions that wrote the projects' data, from another seed; what came true
is theirs, whatever was answered.
"""

from __future__ import annotations

import csv
import random
from functools import cache
from pathlib import Path

from benchmarks.applications.journey import THUMB, Blueprint, UserRequest

from antiphon.cli.blueprints import handbook, mails, products, tickets

SORTED = 'system="You put the products of a store into departments."', 'system="You sort a store\'s products."'

EXAMPLES = "        examples=EXAMPLES,\n", ""

# A dozen questions, or six shops, have as many prompts: else nearly every answer is one that is known already.
ANEW = 'reuse=Reuse("never", identical_prompts=False)'


def ticket(root: Path, chance: random.Random) -> UserRequest:
    customer, text, urgency, summary = tickets.draw_ticket(chance)
    return UserRequest({"customer": customer}, text, {"urgency": urgency, "summary": summary})


def mail(root: Path, chance: random.Random) -> UserRequest:
    sender, text, product, quantity, order = mails.draw_mail(chance)
    return UserRequest({"sender": sender}, text, {"product": product, "quantity": quantity, "order": order})


def product(root: Path, chance: random.Random) -> UserRequest:
    row = chance.choice(rows(root / "checked.csv"))
    return UserRequest({"sku": row["sku"]}, "Which department?", {"department": row["department"]})


def order(root: Path, chance: random.Random) -> UserRequest:
    row = chance.choice(rows(root / "orders.csv"))
    late = float(row["minutes"]) > float(row["promised"])
    return UserRequest(
        {"shop": row["shop"]}, "Will my order be on time?", {"outlook": "delayed" if late else "on_time"}
    )


def question(root: Path, chance: random.Random) -> UserRequest:
    asked, words = chance.choice(list(handbook.QUESTIONS.items()))
    return UserRequest({"customer": chance.choice(handbook.CUSTOMERS)}, asked, {THUMB: words})


@cache
def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _constant(labels: tuple[str, ...], said: str) -> tuple[tuple[str, str], ...]:
    return tuple((f'{{"department": "{label}"}}', f'{{"department": "{said}"}}') for label in labels)


BLUEPRINTS: dict[str, Blueprint] = {
    one.name: one
    for one in (
        Blueprint(
            "triage",
            "triage",
            ticket,
            ("night.csv", tickets.PER_DAY),
            # The model no longer sees the ticket.
            spoil=(('template="Ticket: {{ question }}"', 'template="A ticket of {{ entity.customer }}."'),),
        ),
        Blueprint(
            "extraction",
            "extract",
            mail,
            ("night.csv", mails.PER_DAY),
            spoil=(
                (
                    'system="You read orders.", template="{{ question }}"',
                    'system="You read orders.", template="An order of {{ entity.sender }}."',
                ),
            ),
        ),
        Blueprint(
            "enrichment",
            "enrich",
            product,
            ("all.csv", products.NUMBER),
            # The words of the blueprint are the better ones.
            declare=(SORTED,),
            improve=(SORTED[::-1],),
            # It says the same of every product.
            spoil=_constant(("garden", "sports", "office"), "kitchen"),
        ),
        Blueprint(
            "assistant",
            "assistant",
            question,
            ("night.csv", len(handbook.QUESTIONS)),
            # The examples of the blueprint are what makes it better.
            declare=(
                EXAMPLES,
                ("    Retrieval,\n", "    Retrieval,\n    Reuse,\n"),
                ("    guards=[CitationGuard", f"    {ANEW},\n    guards=[CitationGuard"),
            ),
            improve=(('        template="""Handbook', '        examples=EXAMPLES,\n        template="""Handbook'),),
            # It no longer sees the handbook.
            spoil=(("[{{ chunk.number }}] {{ chunk.text }}\n", ""),),
        ),
        Blueprint(
            "desk",
            "desk",
            order,
            ("shops.csv", 6),
            declare=(('reuse=Reuse("fingerprint")', ANEW),),
            improve=(("in one short notice", "in one short and friendly notice"),),
            # It states minutes that no order took.
            spoil=(
                (
                    "{{ features.today.minutes ~ ' minutes' if features.today.minutes is not none "
                    "else 'an unknown time' }}",
                    "93 minutes",
                ),
            ),
        ),
    )
}
