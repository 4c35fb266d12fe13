"""Names and digests that would lead elsewhere: refused at every route that takes one, and nothing is made of them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from operations import ENDLESS, operations, request
from plane import Local, World, local, world

HOSTILE = {
    "parent": "..",
    "parent path": "../../../etc/passwd",
    "backslash": "..\\..\\secret",
    "encoded": "%2e%2e%2fsecret",
    "encoded twice": "%252e%252e%252fsecret",
    "encoded slash": "a%2fb",
    "absolute": "/etc/passwd",
    "host": "//evil.example/x",
    "drive": "C:\\windows",
    "params": "m;params=1",
    "nul": "m\0.tilth",
    "encoded nul": "m%00",
    "newline": "m\nSet-Cookie: a=b",
    "proc": "/proc/self/root/etc/shadow",
    "device": "/dev/zero",
    "hidden": ".hidden",
    "option": "--help",
    "long": "a" * 4096,
    "empty": "",
    "space": " ",
    "upper case": "Fraud",
    "look-alike": "fr\u0430ud",
    "right to left": "fraud\u202egnp",
    "wide": "\uff46raud",
    "template": "{{7*7}}",
    "shell": "$(id)",
    "query": "m?x=1",
    "fragment": "m#x",
    "glob": "*",
    "tilde": "~root",
}
DIGESTS = {
    "63 digits": "a" * 63,
    "65 digits": "a" * 65,
    "upper case": "A" * 64,
    "with a prefix": "sha256:" + "a" * 64,
    "a path behind a prefix": "sha256:../../../etc/passwd",
    "a newline behind": "a" * 64 + "\n",
    "other digits": "\u0661" * 64,
}
#: Operations that make something of a name in their body, and the field.
MAKERS = {
    "make_user": "name",
    "make_project": "name",
    "make_model": "name",
    "make_endpoint": "name",
    "make_node": "name",
    "make_token": "name",
}
#: A token's name is for people and names nothing: it may be in upper case.
PEOPLES = {("make_token", "upper case")}


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with local(tmp_path_factory.mktemp("names") / "home") as asks:
        yield world(asks)


def count(asks: Local) -> int:
    return asks.events()


def quoted(text: str) -> str:
    """Return a name as it stands in a path: as it is where a client would send it so, else encoded once."""
    if set(text) == {"."}:
        return text.replace(".", "%2E")  # else the client itself would go up
    return "".join(one if one.isascii() and (one.isalnum() or one in "%-._~;=") else _hex(one) for one in text)


def _hex(one: str) -> str:
    return "".join(f"%{byte:02X}" for byte in one.encode())


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_name_in_a_body_makes_nothing(kind: str, crowd: World) -> None:
    told = operations(crowd.asks.get("/v1/openapi.json"))
    for name, field in MAKERS.items():
        if (name, kind) in PEOPLES:
            continue
        method, path = told[name]
        before = count(crowd.asks)
        order = request(name, crowd.ids["one"])["told"] | {field: HOSTILE[kind]}
        answer = crowd.asks.ask(method, path.format(project="one"), order)
        assert answer.status_code in (400, 422), f"{name}: {answer.status_code} {answer.text}"
        assert answer.headers["content-type"] == "application/problem+json" and answer.json()["what"]
        assert "\0" not in answer.text and "\u202e" not in answer.text and len(answer.text) < 2000
        assert count(crowd.asks) == before


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_name_in_a_path_is_nobody(kind: str, crowd: World) -> None:
    """Every parameter of every operation, one at a time."""
    before = count(crowd.asks)
    for name, (method, template) in operations(crowd.asks.get("/v1/openapi.json")).items():
        parameters = [one.partition("}")[0] for one in template.split("{")[1:]]
        if name in ENDLESS:
            continue
        for parameter in parameters:
            ids = {key: quoted(value) for key, value in (crowd.ids["one"] | {"user": "viewer", "token": "0"}).items()}
            ids[parameter] = quoted(HOSTILE[kind])
            path = template.format_map({one: ids.get(one, "0") for one in parameters})
            answer = crowd.asks.ask(method, path, **_harmless(method, name, crowd))
            assert answer.status_code in (400, 403, 404, 405, 412, 422), (
                f"{name} {parameter}: {answer.status_code} {path}"
            )
            assert "root:" not in answer.text
    assert count(crowd.asks) == before


@pytest.mark.parametrize("kind", DIGESTS)
def test_what_is_no_digest_reads_and_writes_nothing(kind: str, crowd: World, tmp_path: Path) -> None:
    digest, asks = DIGESTS[kind], crowd.asks
    files = sorted(os.walk(asks.home.folder))
    for method, path, told in (
        ("GET", f"/v1/projects/one/blobs/{quoted(digest)}", None),
        ("GET", f"/v1/projects/one/blobs/{quoted(digest)}/size", None),
        ("POST", "/v1/projects/one/uploads", {"digest": digest, "size_bytes": 4}),
        ("POST", "/v1/projects/one/blobs/missing", {"digests": [digest]}),
        ("POST", "/v1/projects/one/models/m/versions", {"digest": digest}),
    ):
        answer = asks.ask(method, path, told)
        assert answer.status_code in (400, 403, 404, 422), f"{path}: {answer.status_code} {answer.text}"
    answer = asks.ask("PUT", f"/v1/projects/one/blobs/{quoted(digest)}", content=b"data")
    assert answer.status_code in (400, 403, 404, 422), answer.text
    assert sorted(os.walk(asks.home.folder)) == files


def _harmless(method: str, name: str, crowd: World) -> dict[str, Any]:
    if method == "GET":
        return {}
    if method == "DELETE":
        return {"headers": {"If-Match": '"999999"'}}
    more = request(name, crowd.ids["one"])
    more["headers"] = dict(more.get("headers", {})) | ({} if method == "POST" else {"If-Match": '"999999"'})
    return more
