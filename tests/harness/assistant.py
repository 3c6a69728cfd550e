"""A shop's assistant: an application that sees earlier turns, with a feature of the customer at each of them."""

from __future__ import annotations

from typing import Any

import msgspec
from tests.harness.small_desk import BARE, DESK

from antiphon.definitions.application import ApplicationSpec, Decoding, Figure, Reuse
from antiphon.definitions.conversation import Conversation
from antiphon.definitions.prompt import Prompt

ASSISTANT: ApplicationSpec = msgspec.structs.replace(
    DESK,
    **{
        **BARE,
        "features": {"account": "v1"},
        "entity_keys": ("customer",),
        "figures": (Figure("account.open_tickets", unit=("tickets", "ticket"), roles=("open",)),),
    },
    name="assistant",
    prompt=Prompt(
        system="You answer customers of a shop for tea. Parcels take three to five days. Returns are free in 30 days.",
        template=(
            "Customer {{ entity.customer }} has {{ features.account.open_tickets }} open tickets. {{ question }}"
        ),
    ),
    decoding=Decoding(max_tokens=24),
    reuse=Reuse(),
    purpose="support",
    conversation=Conversation(),
)
ENTITY = {"customer": "acme"}


def assistant(**changes: Any) -> ApplicationSpec:
    """The assistant with some of its parts changed."""
    return msgspec.structs.replace(ASSISTANT, **changes)
