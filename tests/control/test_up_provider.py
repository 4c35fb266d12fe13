"""`tilth up` with an identity provider, and behind a proxy: real processes, a provider of its own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from plane import PATIENCE_S, Up


@pytest.fixture
def issuer(provider: str) -> str:
    found: str = httpx.get(f"{provider}/.well-known/openid-configuration").json()["issuer"]
    return found


@pytest.fixture
def up(issuer: str, tmp_path: Path) -> Iterator[Up]:
    (tmp_path / "secret").write_text("hush\n")
    given = ["--oidc-issuer", issuer, "--oidc-client", "tilth", "--oidc-secret-file", str(tmp_path / "secret")]
    with Up(tmp_path / "home", *given) as made:
        yield made


def test_a_person_signs_in_through_the_provider_that_is_configured(up: Up) -> None:
    with httpx.Client(base_url=up.address, timeout=PATIENCE_S, trust_env=False) as browser:
        away = browser.get("/console/oidc/begin?next=/console/account")
        assert "code_challenge_method=S256" in away.headers["location"]
        back = httpx.post(away.headers["location"], data={"sub": "7"}).headers["location"]
        assert back.startswith(f"{up.address}/console/oidc?")
        assert browser.get(back).status_code == 200
        assert "ann-lee" in browser.get("/console/account").text
    (found,) = [one for one in up.made("GET", "/v1/users")["items"] if one["name"] == "ann-lee"]
    assert found["external"] and not found["is_admin"]
    assert up.made("GET", "/v1/projects/default/members")["items"][0]["user"] == "admin"


def test_the_token_of_the_first_start_works_beside_the_provider(up: Up) -> None:
    assert up.ask("GET", "/v1/me").status_code == 200
    assert "Sign in with your company account" in httpx.get(f"{up.address}/console/sign-in").text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--oidc-issuer", "https://id.example"], "needs an issuer and a client id"),
        (["--oidc-client", "tilth"], "needs an issuer and a client id"),
        (["--oidc-issuer", "http://id.example", "--oidc-client", "tilth"], "is not an address for signing in"),
        (["--oidc-issuer", "file:///etc/passwd", "--oidc-client", "tilth"], "is not an address for signing in"),
        (["--public-url", "https://u:p@tilth.example"], "tilth.example"),
        (["--public-url", "https://tilth.example/below"], "tilth.example"),
    ],
)
def test_a_configuration_that_would_leak_or_not_work_does_not_start(
    tmp_path: Path, given: list[str], says: str
) -> None:
    command = [sys.executable, "-m", "tilth", "up", "--home", str(tmp_path / "home"), "--port", "0", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 3 and says in done.stderr and "Traceback" not in done.stderr


def test_behind_a_proxy_a_cookie_is_for_tls_and_only_the_proxys_page_is_let_in(tmp_path: Path) -> None:
    with Up(tmp_path / "home", "--public-url", "https://tilth.example") as up:

        def signed_in(host: str, origin: str) -> httpx.Response:
            page = up.client.get("/console/sign-in", headers={"Host": host})
            proof = page.text.partition('name="proof" value="')[2].partition('"')[0]
            cookies = "; ".join(one.partition(";")[0] for one in page.headers.get_list("set-cookie"))
            headers = {"Host": host, "Origin": origin, "Cookie": cookies}
            return up.client.post("/console/sign-in", data={"token": up.secret, "proof": proof}, headers=headers)

        through = signed_in("tilth.example", "https://tilth.example")
        assert through.status_code == 303, through.text
        assert any("Secure" in one and "__Host-" in one for one in through.headers.get_list("set-cookie"))
        # A header that anybody can send does not make a request one that came by TLS.
        assert signed_in(f"127.0.0.1:{up.port}", f"https://127.0.0.1:{up.port}").status_code == 403
        assert signed_in("evil.example", "https://evil.example").status_code == 403
        assert signed_in("tilth.example", "http://tilth.example").status_code == 403
        assert signed_in("tilth.example:8443", "https://tilth.example:8443").status_code == 403
