"""Who may call endpoints follows what was acknowledged, also when changes come while the list is written."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from plane import Up, until

from tilth.control import secret

pytestmark = pytest.mark.timeout(240)


def test_a_revocation_while_the_list_is_written_is_not_forgotten(tmp_path: Path) -> None:
    with Up(tmp_path / "home") as up, ThreadPoolExecutor(6) as pool:
        listed = up.folder / "serving" / "tokens"
        until(listed.exists)
        for number in range(40):
            made = up.made("POST", "/v1/tokens", {"name": f"t{number}"})
            hashed = secret.hashed(made["secret"])
            assert hashed
            until(lambda hashed=hashed: hashed in listed.read_text(encoding="ascii"), seconds=20)  # type: ignore[misc]
            # Each change has the list written, and the next one comes while that goes on.
            changes = [("POST", "/v1/tokens", {"name": "other"}) for _ in range(5)]
            changes.insert(number % 6, ("DELETE", f"/v1/tokens/{made['id']}", None))
            list(pool.map(lambda one: up.made(*one), changes))
            until(lambda hashed=hashed: hashed not in listed.read_text(encoding="ascii"), seconds=20)  # type: ignore[misc]
