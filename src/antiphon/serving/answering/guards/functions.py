"""Guards in Python: what a function of the user's own says of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from antiphon.serving.user_functions import UserFunctions


async def function_reason(
    functions: UserFunctions, name: str, text: str, request: Mapping[str, Any], seconds: float
) -> str | None:
    """The reason for which a function does not let a text pass; ``None``: it passes. Never raises."""
    try:
        said = await functions.call(name, (text, request), seconds)
    except TimeoutError:
        return f"{name} did not answer within {seconds:g} s"
    except Exception as error:
        functions.log_raised(name, error, "no text passes it")
        return f"{name} raised {type(error).__name__}"
    if said is None or said is True:
        return None
    return said if isinstance(said, str) and said else f"{name} said no"
