import os
from pathlib import Path

import pytest

from antiphon.core.errors import SetupError
from antiphon.engine import weights

MODEL = "smollm2-135m"


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The base model's file; pulled if need be."""
    try:
        return weights.pull(MODEL)
    except SetupError as error:
        if os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
            raise
        pytest.skip(str(error))
