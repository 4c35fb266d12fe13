"""Pages that a browser on this machine was lured to, and names that were bound to its address."""

import ipaddress
import timeit
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.address import Address
from tilth.core.errors import InvalidError
from tilth.core.host import HostRule

LOCAL = HostRule([Address("127.0.0.1", 8751), Address("::1", 8751)], ["gpu1.example", "[2001:DB8::1]"])
PUBLIC = HostRule([Address("10.0.0.1", 8751)])
CONSOLE = HostRule([Address("127.0.0.1", 8751)], origins=["https://Console.example:443", "http://[0:0::1]:3000"])


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8751",
        "LOCALHOST:1",
        "127.0.0.1",
        "127.0.0.1:8751",
        "[::1]",
        "[::1]:8751",
        "[0:0:0:0:0:0:0:1]:8751",
        "gpu1.example",
        "GPU1.example:9999",
        "[2001:db8::1]:1",
    ],
)
def test_the_names_of_this_machine_are_let_in_the_first_time_and_again(host: str) -> None:
    assert LOCAL.refusal(host, None) == "" == LOCAL.refusal(host, None)


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:8751",
        "localhost.attacker.example",
        "127.0.0.1.attacker.example:8751",
        "attacker.example#localhost",
        "attacker.example@localhost",
        "localhost@attacker.example",
        "localhost:8751@attacker.example",
        "localhost/../attacker.example",
        "localhost,attacker.example",
        "localhost attacker.example",
        "localhost\r\nattacker.example",
        "localhost.",
        "localhost:",
        "localhost:80:80",
        "localhost:123456",
        "localhost:-1",
        "127.0.0.2",
        "127.1",
        "0.0.0.0:8751",
        "2130706433",
        "0x7f.0.0.1",
        "::1",
        "::1:8751",
        "[::1",
        "[::ffff:127.0.0.1]",
        "[]",
        "[::1].attacker.example",
        "",
        " ",
        ":8751",
        "\0",
        "löcalhost",
        "a" * 4096,
        "localhost:" + "8" * 4096,
    ],
)
def test_a_name_bound_to_this_machine_by_somebody_else_is_refused(host: str) -> None:
    reason = LOCAL.refusal(host, None)
    assert "is not a name of this server" in reason and len(reason) < 400
    assert reason.isascii() and reason.isprintable()
    assert LOCAL.refusal(host, None) == reason


def test_a_request_that_names_no_host_is_refused() -> None:
    assert LOCAL.refusal(None, None) == "the request has no Host header"


def test_the_address_that_is_listened_on_is_a_name_of_this_server() -> None:
    assert HostRule([Address("127.0.0.2", 1)]).refusal("127.0.0.2:1", None) == ""


def test_a_server_that_others_reach_takes_every_host() -> None:
    for host in (None, "gpu1.example", "10.0.0.1:8751", "anything"):
        assert PUBLIC.refusal(host, None) == ""


def test_one_address_that_others_reach_opens_the_rule() -> None:
    assert HostRule([Address("127.0.0.1", 1), Address("10.0.0.1", 1)]).refusal("gpu1.example", None) == ""


@pytest.mark.parametrize("rule", [LOCAL, PUBLIC, CONSOLE])
@pytest.mark.parametrize(
    "origin",
    [
        "https://attacker.example",
        "http://localhost:8751",
        "http://127.0.0.1:8751",
        "null",
        "",
        "*",
        "https://console.example.attacker.example",
        "https://console.example:8443",
        "http://console.example",
        "https://CONSOLE.example",
        "https://console.example, https://attacker.example",
        "https://console.example/",
        "file://",
        "a" * 4096,
    ],
)
def test_a_foreign_origin_is_refused(rule: HostRule, origin: str) -> None:
    rule.refusal("localhost", None)
    assert "may not call this server" in rule.refusal("localhost", origin)


def test_a_console_that_was_allowed_may_call() -> None:
    assert CONSOLE.refusal("localhost", "https://console.example") == ""
    assert CONSOLE.refusal("localhost", "http://[::1]:3000") == ""
    assert "is not a name" in CONSOLE.refusal("attacker.example", "https://console.example")


@pytest.mark.parametrize("host", ["*", "*.example", "gpu1:8751", "http://gpu1", "", "a b", "::1", "1.2.3", "a" * 4096])
def test_an_extra_host_that_is_none_is_told(host: str) -> None:
    with pytest.raises(InvalidError, match="is not a host"):
        HostRule([], [host])


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "console.example",
        "https://*",
        "https://a/",
        "https://a/b",
        "https://u@a",
        "ftp://a",
        "https://",
        "",
    ],
)
def test_an_origin_that_no_browser_sends_is_told(origin: str) -> None:
    with pytest.raises(InvalidError):
        HostRule([], origins=[origin])


def test_a_client_that_names_every_port_does_not_fill_the_memory() -> None:
    rule = HostRule([Address("127.0.0.1", 1)])
    for port in range(5000):
        assert rule.refusal(f"localhost:{port}", None) == ""
        assert len(rule._seen) <= 1024
    for port in range(5000):
        assert rule.refusal(f"attacker.example:{port}", None)
    assert not any("attacker" in host for host in rule._seen)


def test_a_host_that_was_seen_costs_no_more_than_a_look_up() -> None:
    LOCAL.refusal("localhost:8751", None)
    # 20,000 requests a second leave 50 us for each; a tenth of that would be felt.
    assert min(timeit.repeat(lambda: LOCAL.refusal("localhost:8751", None), number=1000, repeat=5)) < 5e-3


@settings(max_examples=200)
@given(
    st.one_of(
        st.text(),
        st.from_regex(r"(localhost|127\.0\.0\.1|\[[0:]{2,6}1\])?[:.a-z0-9@/?#]{0,4}(:[0-9]{0,6})?", fullmatch=True),
    )
)
def test_a_host_that_is_let_in_is_ours_to_another_parser_too(host: str) -> None:
    if HostRule([Address("127.0.0.1", 1)]).refusal(host, None) == "":
        name = urlsplit(f"//{host}").hostname or ""
        assert name in ("localhost", "127.0.0.1") or ipaddress.ip_address(name) == ipaddress.ip_address("::1")
