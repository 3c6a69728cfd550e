"""``antiphon apply`` with its order taken out, for the harness that must find it: definitions and the live pointer
first, features whenever they come."""

from __future__ import annotations

import sys
from unittest.mock import patch

from antiphon.cli import main
from antiphon.services import rollouts
from antiphon.services.apply import apply as applying


def break_order() -> None:
    """Let an apply wait for no view, and a release go live whatever it reads."""
    # Patching what is not there raises, so that a name that has changed does not mend the order in silence.
    patch.object(applying, "_unpublished", lambda *_: ()).start()
    patch.object(rollouts, "feature_exists", lambda _: lambda *_: True).start()


if __name__ == "__main__":
    break_order()
    sys.argv.insert(1, "apply")
    sys.exit(main.main())
