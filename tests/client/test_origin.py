"""Where a control plane is, and where its endpoints are for whoever reached it."""

import pytest

from tilth.client.origin import seen_from


@pytest.mark.parametrize(
    ("url", "base", "seen"),
    [
        ("http://0.0.0.0:8751", "https://tilth.example:8750", "http://tilth.example:8751"),
        ("https://0.0.0.0:443", "https://10.0.0.1", "https://10.0.0.1"),
        ("https://[::]:8751", "https://[fd00::1]:8750", "https://[fd00::1]:8751"),
        ("http://127.0.0.1:8751", "https://tilth.example", "http://127.0.0.1:8751"),
        ("http://0.0.0.0:8751", "http://no host", "http://0.0.0.0:8751"),
        ("", "https://tilth.example", ""),
    ],
)
def test_nobody_is_sent_to_every_address_of_a_machine(url: str, base: str, seen: str) -> None:
    assert seen_from(url, base) == seen
