"""Nobody does what is not theirs: every route, asked by everyone, with ids of their own and of others."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from operations import ENDLESS, EXTRA, LEAST, ROLES, harmless, operations, request
from plane import World, local, world

from tilth.control.store.tables import META, tokens, users

#: Routes that nobody declared at the desk; the second asks for a token by itself.
PUBLIC = {"/health", "/v1/openapi.json"}
#: What each is in project one, whether it reads anything anywhere, and whether it administers all.
KNOWN: Mapping[str, tuple[str | None, bool, bool]] = {
    "stranger": (None, False, False),
    "caller": ("caller", False, False),
    "viewer": ("viewer", True, False),
    "developer": ("developer", True, False),
    "operator": ("operator", True, False),
    "owner": ("admin", True, False),
    "neighbour": (None, True, False),
    "admin": ("admin", True, True),
    "admin in two": (None, True, False),
    "admin as viewer": ("viewer", True, False),
    "admin as caller": ("caller", False, False),
    "operator as viewer": ("viewer", True, False),
    "owner in one": ("admin", True, False),
    "stranger in two": (None, False, False),
    "neighbour in two as developer": (None, True, False),
}
NOBODY = ("", "garbage", "of another form", "revoked", "expired", "disabled", "of a removed project")


@pytest.fixture(scope="module")
def crowd(lite: World) -> World:
    """The world with tokens of every kind, good and bad."""
    people, asks = lite.people, lite.asks
    people["caller"] = lite.token(people["developer"], role="caller")
    people["admin in two"] = lite.token(project="two")
    people["admin as viewer"] = lite.token(role="viewer")
    people["admin as caller"] = lite.token(role="caller")
    people["operator as viewer"] = lite.token(people["operator"], project="one", role="viewer")
    people["owner in one"] = lite.token(people["owner"], project="one")
    people["stranger in two"] = lite.token(user="stranger", project="two")
    people["neighbour in two as developer"] = lite.token(people["neighbour"], project="two", role="developer")
    people |= {"": "", "garbage": f"tilth_{'x' * 43}", "of another form": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."}
    people["revoked"] = revoked(lite)
    people["expired"] = lite.token(people["owner"], expires_in_s=60)
    with asks.database.write() as connection:
        connection.execute(tokens.update().where(tokens.c.expires_us.is_not(None)).values(expires_us=1))
    people["disabled"] = lite.user("gone", one="admin")
    asks.made("PATCH", "/v1/users/gone", {"disabled": True})
    asks.made("POST", "/v1/projects", {"name": "short"})
    people["of a removed project"] = lite.token(project="short")
    asks.made("DELETE", "/v1/projects/short")
    lite.ids["one"] |= {"user": "viewer", "token": token_id(lite, people["viewer"])}
    return lite


def revoked(found: World) -> str:
    made = found.asks.made("POST", "/v1/tokens", {"name": "t"}, who=found.people["owner"])
    found.asks.made("DELETE", f"/v1/tokens/{made['id']}")
    return str(made["secret"])


def token_id(found: World, secret: str) -> str:
    return str(found.asks.get("/v1/tokens", who=secret)["items"][-1]["id"])


def rows(found: World) -> dict[str, list[Any]]:
    """Return everything that the store holds."""
    with found.asks.database.read() as connection:
        return {name: list(connection.execute(sa.select(table))) for name, table in META.tables.items()}


def files(found: World) -> list[Path]:
    """Return what lies in the folders of blobs and uploads."""
    folders = (found.asks.home.blobs, found.asks.home.uploads)
    return sorted(path for folder in folders for path in folder.rglob("*") if "inspector" not in path.name)


def path_of(template: str, ids: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: ids[found[1]], template)


def may(who: str, name: str) -> bool:
    role, reads, rules = KNOWN[who]
    least = LEAST[name]
    if least in ("somebody", "reader", "administrator"):
        return {"somebody": True, "reader": reads, "administrator": rules}[least]
    return role is not None and ROLES.index(role) >= ROLES.index(least)


def asked(found: World, name: str, who: str, ids: Mapping[str, str], sent: dict[str, Any]) -> Any:
    method, template = operations(found.asks.plane.desk.app.openapi_schema)[name]
    return found.asks.ask(method, path_of(template, ids), who=found.people[who], **sent)


@pytest.fixture(autouse=True)
def document(crowd: World) -> None:
    crowd.asks.get("/v1/openapi.json")


def test_every_route_is_one_of_the_desk_and_restated_here(crowd: World) -> None:
    desk, app = crowd.asks.plane.desk, crowd.asks.plane.desk.app
    declared = {(route.method, route.path) for route in desk.routes}
    served = {(method, route.path) for route in app.routes for method in getattr(route, "methods", None) or ()}
    api = {(method, path) for method, path in served if path.startswith("/v1/") and path not in PUBLIC}
    assert api == {one for one in declared if one[1].startswith("/v1/")}
    told = operations(crowd.asks.get("/v1/openapi.json"))
    assert set(told.values()) == api and told.keys() == LEAST.keys()
    mounted = [route for route in app.routes if not getattr(route, "methods", None)]
    assert [one.path for one in mounted if one.path.startswith("/v1") or one.path in ("", "/")] == []


def test_each_request_here_works_for_who_may(tmp_path: Path) -> None:
    """Else a refusal would say nothing."""
    last = ("stage_version", "remove_alias", "remove_endpoint", "remove_version", "remove_model", "remove_project")
    with local(tmp_path / "home") as asks:
        found = world(asks)
        told = operations(asks.get("/v1/openapi.json"))
        names = [name for name in told if name not in last and name not in ENDLESS]
        ids = found.ids["one"] | {"user": "viewer", "token": token_id(found, found.people["viewer"])}
        for name in [*names, *last]:
            own = dict(ids)
            if name == "put_blob":
                own["digest"] = EXTRA.digest
            if name == "remove_model":
                asks.made("DELETE", "/v1/projects/one/models/m/versions/2")
                asks.made("DELETE", "/v1/projects/one/endpoints/f")
            if name == "remove_project":
                asks.made("DELETE", "/v1/projects/one/models/n")
            if name == "send_upload":
                own["upload"] = asks.get("/v1/projects/one/uploads/" + again(found))["id"]
            method, template = told[name]
            answer = asks.ask(method, path_of(template, own), **request(name, ids))
            assert answer.status_code in (200, 201, 204), f"{name}: {answer.text}"


def again(found: World) -> str:
    made = found.asks.made("POST", "/v1/projects/one/uploads", {"digest": "0b" * 32, "size_bytes": 99})
    return str(made["id"])


@pytest.mark.parametrize("who", NOBODY)
def test_nobody_does_anything(crowd: World, who: str) -> None:
    before, lying = rows(crowd), files(crowd)
    for name in LEAST:
        answer = asked(crowd, name, who, crowd.ids["one"], request(name, crowd.ids["one"]))
        assert answer.status_code == 401, f"{name}: {answer.text}"
        assert answer.headers["www-authenticate"] == 'Bearer realm="tilth"'
        assert answer.json()["error"] == "UnknownError"
    assert crowd.asks.ask("GET", "/v1/openapi.json", who=crowd.people[who]).status_code == 401
    assert rows(crowd) == before and files(crowd) == lying


@pytest.mark.parametrize("who", sorted(KNOWN))
def test_who_may_not_changes_nothing_and_learns_nothing(crowd: World, who: str) -> None:
    before, lying = rows(crowd), files(crowd)
    for name in LEAST:
        if may(who, name):
            continue
        answer = asked(crowd, name, who, crowd.ids["one"], request(name, crowd.ids["one"]))
        of_project = LEAST[name] in ROLES
        hidden = of_project and KNOWN[who][0] is None
        assert answer.status_code == (404 if hidden else 403), f"{name}: {answer.status_code} {answer.text}"
        if hidden:
            missing = asked(crowd, name, who, crowd.ids["one"] | {"project": "nil"}, request(name, crowd.ids["one"]))
            assert missing.status_code == 404 and missing.json() == answer.json(), name
    assert rows(crowd) == before and files(crowd) == lying


@pytest.mark.parametrize("who", sorted(KNOWN))
def test_who_may_is_let_in(crowd: World, who: str) -> None:
    before = rows(crowd)
    for name in LEAST:
        if not may(who, name) or name in ENDLESS:
            continue
        method, _ = operations(crowd.asks.plane.desk.app.openapi_schema)[name]
        ids = crowd.ids["one"] | ({"user": "nil", "token": "nil", "upload": "nil"} if method == "DELETE" else {})
        answer = asked(crowd, name, who, ids, harmless(method, name))
        told = answer.json() if answer.headers["content-type"] == "application/problem+json" else {}
        assert answer.status_code in (200, 400, 404, 412, 422), f"{name}: {answer.status_code} {answer.text}"
        assert told.get("what") != "there is no such project", name
        if method == "GET" and (name, who) not in HIDDEN:
            assert answer.status_code == 200, f"{name}: {answer.text}"
    assert rows(crowd) == before


#: Who may look, and does not see what is another's.
HIDDEN = {
    ("get_node", who) for who in ("neighbour", "admin in two", "neighbour in two as developer")
} | {("get_token", who) for who in KNOWN if who not in ("admin", "viewer")} | {
    ("get_upload", "nobody")
}  # fmt: skip


# -- ids of others


@pytest.mark.parametrize("who", ["owner", "admin", "owner in one"])
def test_an_id_of_another_project_is_not_there(crowd: World, who: str) -> None:
    """Whoever is all in project one, and names what is in project two by the path of one."""
    before = rows(crowd)
    one, two = crowd.ids["one"], crowd.ids["two"]
    for name, (_, template) in operations(crowd.asks.plane.desk.app.openapi_schema).items():
        for kind in ("approval", "upload", "digest", "build"):
            if f"{{{kind}}}" in template and "{project}" in template and name != "put_blob":
                ids = one | {kind: two[kind]}
                answer = asked(crowd, name, who, ids, request(name, ids))
                assert answer.status_code == 404, f"{name} {kind}: {answer.status_code} {answer.text}"
    answer = crowd.asks.ask(
        "POST", "/v1/projects/one/models/m/versions", {"digest": two["digest"]}, who=crowd.people[who]
    )
    assert answer.status_code == 404 and "not uploaded" in answer.text
    missing = crowd.asks.made(
        "POST", "/v1/projects/one/blobs/missing", {"digests": [two["digest"], one["digest"]]}, who=crowd.people[who]
    )
    assert missing == {"missing": [two["digest"]]}
    assert rows(crowd) == before


def test_lists_hold_nothing_of_another_project(crowd: World) -> None:
    asks, people = crowd.asks, crowd.people
    for who in ("owner", "owner in one", "operator as viewer"):
        assert [one["name"] for one in asks.get("/v1/projects", who=people[who])["items"]] == ["one"]
        assert [one["name"] for one in asks.get("/v1/nodes", who=people[who])["items"]] == ["one-node"]
        assert {one["node"] for one in asks.get("/v1/devices", who=people[who])["items"]} == {"one-node"}
        assert asks.get("/v1/devices?node=two-node", who=people[who])["items"] == []
        events = asks.get("/v1/projects/one/events?limit=200", who=people[who])["items"]
        assert events and {one["project_id"] for one in events} == {asks.get("/v1/projects/one")["id"]}
    for who in ("caller", "stranger", "admin as caller"):
        assert asks.get("/v1/projects", who=people[who])["items"] == []
    assert {one["user"] for one in asks.get("/v1/tokens", who=people["owner"])["items"]} == {"owner"}
    assert [one["name"] for one in asks.get("/v1/tokens", who=people["caller"])["items"]] == ["t"]


def test_what_somebody_is_told_of_itself_is_what_it_may(crowd: World) -> None:
    asks, people = crowd.asks, crowd.people
    assert asks.get("/v1/me", who=people["operator as viewer"])["roles"] == {"one": "viewer"}
    assert asks.get("/v1/me", who=people["stranger in two"])["roles"] == {}
    narrow = asks.get("/v1/me", who=people["admin in two"])
    assert narrow["project"] == "two" and narrow["roles"] == {"two": "admin"}
    assert asks.get("/v1/me", who=people["caller"])["role"] == "caller"


def test_a_token_of_another_is_neither_seen_nor_revoked(crowd: World) -> None:
    asks, people = crowd.asks, crowd.people
    other = crowd.ids["one"]["token"]
    for who in ("owner", "neighbour", "caller", "admin in two", "admin as viewer"):
        for method in ("GET", "DELETE"):
            answer = asks.ask(method, f"/v1/tokens/{other}", who=people[who])
            assert answer.status_code == 404 and answer.json()["what"] == "there is no such token"
    assert asks.get("/v1/me", who=people["viewer"])["user"] == "viewer"


# -- tokens that make tokens


@pytest.mark.parametrize(
    ("who", "order", "project", "role"),
    [
        ("operator as viewer", {}, "one", "viewer"),
        ("operator as viewer", {"role": "admin"}, "one", "viewer"),
        ("operator as viewer", {"role": "caller", "project": "one"}, "one", "caller"),
        ("admin in two", {"role": "developer"}, "two", "developer"),
        ("admin as viewer", {"project": "two"}, "two", "viewer"),
    ],
)
def test_a_token_makes_none_that_may_more(
    crowd: World, who: str, order: dict[str, str], project: str, role: str
) -> None:
    made = crowd.asks.made("POST", "/v1/tokens", {"name": "t", **order}, who=crowd.people[who])
    assert made["project"] == project and made["role"] == role


@pytest.mark.parametrize(
    ("who", "order", "status"),
    [
        ("operator as viewer", {"project": "two"}, 404),
        ("admin in two", {"project": "one"}, 404),
        ("stranger in two", {"project": "two"}, 404),
        ("owner", {"project": "two"}, 404),
        ("owner", {"user": "admin"}, 403),
        ("admin in two", {"user": "owner"}, 403),
        ("admin as viewer", {"user": "owner"}, 403),
        ("caller", {}, 403),
        ("admin as caller", {}, 403),
    ],
)
def test_a_token_that_may_not_makes_none(crowd: World, who: str, order: dict[str, str], status: int) -> None:
    before = rows(crowd)
    answer = crowd.asks.ask("POST", "/v1/tokens", {"name": "t", **order}, who=crowd.people[who])
    assert answer.status_code == status, answer.text
    assert rows(crowd) == before


def test_a_token_does_not_outlive_the_end_of_the_one_that_made_it(crowd: World) -> None:
    asks = crowd.asks
    parent = asks.made("POST", "/v1/tokens", {"name": "t", "expires_in_s": 120}, who=crowd.people["owner"])
    child = asks.made("POST", "/v1/tokens", {"name": "t", "expires_in_s": 9999}, who=parent["secret"])
    grandchild = asks.made("POST", "/v1/tokens", {"name": "t"}, who=child["secret"])
    assert parent["expires_at"] == child["expires_at"] == grandchild["expires_at"]
    asks.made("DELETE", f"/v1/tokens/{parent['id']}", who=crowd.people["owner"])
    assert asks.ask("GET", "/v1/me", who=parent["secret"]).status_code == 401
    assert asks.get("/v1/me", who=crowd.people["owner"])["user"] == "owner"


def test_a_user_that_is_enabled_again_has_its_tokens_and_a_revoked_one_does_not(crowd: World) -> None:
    asks = crowd.asks
    secret = crowd.user("back", one="viewer")
    asks.made("PATCH", "/v1/users/back", {"disabled": True})
    assert asks.ask("GET", "/v1/me", who=secret).status_code == 401
    asks.made("PATCH", "/v1/users/back", {"disabled": False})
    assert asks.get("/v1/me", who=secret)["roles"] == {"one": "viewer"}
    with asks.database.read() as connection:
        assert connection.execute(sa.select(users.c.disabled).where(users.c.name == "back")).scalar() is False


def test_a_role_that_is_taken_is_gone_at_the_next_request(crowd: World) -> None:
    asks = crowd.asks
    secret = crowd.user("temp", one="operator")
    assert asks.get("/v1/projects/one", who=secret)["role"] == "operator"
    asks.made("PUT", "/v1/projects/one/members/temp", {"role": "viewer"})
    assert asks.ask("POST", "/v1/projects/one/endpoints/e/promote", {"version": "1"}, who=secret).status_code == 403
    asks.made("DELETE", "/v1/projects/one/members/temp")
    assert asks.ask("GET", "/v1/projects/one", who=secret).status_code == 404
