"""Names of cases that are the same in every process: some values are made at random when a module is loaded."""

from typing import Any

import pytest


def pytest_make_parametrize_id(config: pytest.Config, val: Any, argname: str) -> str | None:
    return argname if isinstance(val, str | bytes) and len(val) > 24 else None
