"""Documents are executed side by side: each has a folder and ports of its own. Other tests stay with their file."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        document = item.callspec.params.get("document") if hasattr(item, "callspec") else None
        alone = item.path.name == "test_snippets.py" and document is not None
        item.add_marker(pytest.mark.xdist_group(document.name if alone else item.path.name))
