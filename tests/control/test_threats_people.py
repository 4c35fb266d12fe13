"""What people with some rights do to have more of them, alone or two at the same moment; on each database."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from plane import Up, World, sample, world

from tilth.core.digest import digest

ONE = "/v1/projects/one"
ROUNDS = 6
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Up(tmp_path_factory.mktemp("people") / "home") as found:
        yield world(found)


def at_once(crowd: World, *requests: tuple[str, str, Any, str]) -> list[int]:
    """Send requests, each with the token of somebody, at the same moment, and return the answers' statuses."""
    client: httpx.AsyncClient = crowd.asks.client

    async def all_of() -> list[httpx.Response]:
        asked = [
            client.request(method, path, json=told, headers={"Authorization": f"Bearer {who}"})
            for method, path, told, who in requests
        ]
        return list(await asyncio.gather(*asked))

    return sorted(answer.status_code for answer in crowd.asks.runner.run(all_of()))


def name(kind: str) -> str:
    return f"{kind}-{next(_NUMBERS)}"


# -- the last one who may


def test_two_administrators_that_take_the_right_from_each_other_leave_one(peopled: World) -> None:
    asks = peopled.asks
    for _ in range(ROUNDS):
        pair = [name("boss"), name("boss")]
        tokens = [peopled.user(one) for one in pair]
        for one in pair:
            asks.made("PATCH", f"/v1/users/{one}", {"is_admin": True})
        # The first administrator goes for the moment, so that these two are all there are.
        asks.made("PATCH", "/v1/users/admin", {"is_admin": False})
        try:
            order = {"is_admin": False}
            found = at_once(
                peopled,
                ("PATCH", f"/v1/users/{pair[0]}", order, tokens[1]),
                ("PATCH", f"/v1/users/{pair[1]}", {"disabled": True}, tokens[0]),
            )
            assert found[0] == 200 and found[1] in (403, 401, 409), found
            left = [one for one in tokens if asks.ask("GET", "/v1/users", who=one).status_code == 200]
            assert len(left) == 1
        finally:
            for one in tokens:
                if asks.ask("PATCH", "/v1/users/admin", {"is_admin": True}, who=one).status_code == 200:
                    break
        for one in pair:
            asks.made("PATCH", f"/v1/users/{one}", {"is_admin": False, "disabled": True})


def test_two_admins_of_a_project_that_put_each_other_out_leave_one(peopled: World) -> None:
    asks = peopled.asks
    for _ in range(ROUNDS):
        project, pair = name("shared"), [name("head"), name("head")]
        asks.made("POST", "/v1/projects", {"name": project})
        tokens = [peopled.user(one, **{project: "admin"}) for one in pair]
        asks.made("DELETE", f"/v1/projects/{project}/members/admin")
        found = at_once(
            peopled,
            ("DELETE", f"/v1/projects/{project}/members/{pair[0]}", None, tokens[1]),
            ("PUT", f"/v1/projects/{project}/members/{pair[1]}", {"role": "viewer"}, tokens[0]),
        )
        assert found[0] in (200, 204) and found[1] in (403, 404, 409), found
        members = asks.get(f"/v1/projects/{project}/members")["items"]
        assert [one["role"] for one in members].count("admin") == 1


def test_an_installation_without_an_administrator_cannot_be_made(peopled: World) -> None:
    for order in ({"is_admin": False}, {"disabled": True}, {"is_admin": False, "disabled": True}):
        answer = peopled.asks.ask("PATCH", "/v1/users/admin", order)
        assert answer.status_code == 409 and "nobody would be left" in answer.json()["what"]


# -- a second person


def waiting(crowd: World, who: str) -> tuple[str, str]:
    """Ask for the stage of a new version, and return the version's path and the approval's."""
    asks, model = crowd.asks, name("ruled")
    rules = {"approve": ["production"], "deploy": ["production"]}
    asks.made("POST", f"{ONE}/models", {"name": model, **rules})
    asks.push("one", model, sample())
    path = f"{ONE}/models/{model}/versions/1"
    asked = asks.made("POST", f"{path}/stage", {"stage": "production"}, who=who)
    assert asked["state"] == "waiting"
    return path, f"{ONE}/approvals/{asked['id']}"


def test_nobody_accepts_what_they_asked_for_by_any_token_of_theirs(peopled: World) -> None:
    asks, own = peopled.asks, peopled.people["operator"]
    path, approval = waiting(peopled, own)
    doors = [own, peopled.token(own), peopled.token(own, project="one"), peopled.token(user="operator")]
    for who in doors:
        answer = asks.ask("POST", approval, {"accept": True}, who=who)
        assert answer.status_code == 403 and answer.json()["what"] == "you asked for this"
    assert asks.get(path)["stage"] == "none"
    asks.made("POST", approval, {"accept": True}, who=peopled.people["owner"])
    assert asks.get(path)["stage"] == "production"


def test_an_administrator_is_no_second_person_for_itself(peopled: World) -> None:
    path, approval = waiting(peopled, peopled.asks.secret)
    assert peopled.asks.ask("POST", approval, {"accept": True}).status_code == 403
    assert peopled.asks.get(path)["stage"] == "none"


@pytest.mark.parametrize("rules", [{"approve": []}, {"deploy": []}, {"approve": ["archived"]}, {"deploy": ["none"]}])
def test_the_rule_for_a_second_person_is_not_taken_away_by_who_it_is_for(
    rules: dict[str, list[str]], peopled: World
) -> None:
    asks = peopled.asks
    path, _ = waiting(peopled, peopled.people["operator"])
    model = path.partition("/versions")[0]
    for who in ("developer", "operator"):
        answer = asks.ask("PATCH", model, rules | {"description": "harmless"}, who=peopled.people[who])
        assert answer.status_code == 403 and "model.rule" in answer.json()["what"], answer.text
        assert asks.made("PATCH", model, {"tags": {"a": who}, "approve": ["production"]}, who=peopled.people[who])
    found = asks.get(model)
    assert (found["approve"], found["deploy"], found["description"]) == (["production"], ["production"], "")
    assert asks.ask("PATCH", model, rules, who=peopled.people["owner"]).status_code == 200


def test_a_version_that_waits_is_neither_deployed_nor_asked_for_again(peopled: World) -> None:
    asks, who = peopled.asks, peopled.people["operator"]
    path, _ = waiting(peopled, who)
    model, endpoint = path.split("/")[5], name("line")
    asks.made("POST", f"{ONE}/endpoints", {"name": endpoint, "model": model}, who=who)
    asks.made("PUT", f"{ONE}/models/{model}/aliases/champion", {"number": 1}, who=who)
    for order in ("1", "champion", "latest"):
        for verb in ("deploy", "promote"):
            answer = asks.ask("POST", f"{ONE}/endpoints/{endpoint}/{verb}", {"version": order}, who=who)
            assert answer.status_code == 422 and "may not be deployed" in answer.json()["what"]
    assert asks.ask("POST", f"{path}/stage", {"stage": "production"}, who=who).status_code == 409


def test_two_decisions_at_the_same_moment_are_one(peopled: World) -> None:
    for _ in range(ROUNDS):
        path, approval = waiting(peopled, peopled.people["operator"])
        found = at_once(
            peopled,
            ("POST", approval, {"accept": True}, peopled.people["owner"]),
            ("POST", approval, {"accept": False}, peopled.people["admin"]),
        )
        assert found == [200, 409]
        state, stage = peopled.asks.get(approval)["state"], peopled.asks.get(path)["stage"]
        assert (state, stage) in (("accepted", "production"), ("rejected", "none"))


def test_two_that_ask_at_the_same_moment_ask_once(peopled: World) -> None:
    path, _ = waiting(peopled, peopled.people["operator"])
    asks, model = peopled.asks, path.split("/")[5]
    asks.push("one", model, sample(2.0))
    ask = ("POST", f"{ONE}/models/{model}/versions/2/stage", {"stage": "production"})
    found = at_once(peopled, (*ask, peopled.people["operator"]), (*ask, peopled.people["owner"]))
    assert found == [201, 409]
    told = asks.get(f"{ONE}/approvals?state=waiting&model={model}")["items"]
    assert sorted(one["number"] for one in told) == [1, 2]


# -- rights that end in the middle


@pytest.mark.parametrize("way", ["revoked", "disabled", "put out"])
def test_who_loses_the_right_while_sending_has_nothing_kept(way: str, peopled: World) -> None:
    asks, user = peopled.asks, name("sender")
    who = peopled.user(user, one="developer")
    data = name("half").encode() * 100
    end = {
        "revoked": ("DELETE", f"/v1/tokens/{asks.get('/v1/me', who=who)['token']}", None),
        "disabled": ("PATCH", f"/v1/users/{user}", {"disabled": True}),
        "put out": ("DELETE", f"{ONE}/members/{user}", None),
    }[way]

    async def body() -> AsyncIterator[bytes]:
        yield data[:50]
        own = {"Authorization": f"Bearer {asks.secret}"}
        ended = await asks.client.request(end[0], end[1], json=end[2], headers=own)
        assert ended.status_code in (200, 204), ended.text
        yield data[50:]

    headers = {"Content-Length": str(len(data))}
    answer = asks.ask("PUT", f"{ONE}/blobs/{digest(data)}", content=body(), headers=headers, who=who)
    assert answer.status_code in (401, 404), answer.text
    assert asks.ask("GET", f"{ONE}/blobs/{digest(data)}").status_code == 404
    assert not list(asks.home.uploads.glob("put-*"))


def test_a_change_whose_body_comes_late_is_not_done_for_who_is_nobody_by_then(peopled: World) -> None:
    asks = peopled.asks
    who = peopled.user(name("late"), one="developer")
    model = name("late-model")

    async def body() -> AsyncIterator[bytes]:
        own = {"Authorization": f"Bearer {asks.secret}"}
        token = (await asks.client.get("/v1/me", headers={"Authorization": f"Bearer {who}"})).json()["token"]
        await asks.client.delete(f"/v1/tokens/{token}", headers=own)
        await asyncio.sleep(1.1)
        yield b'{"name": "%s"}' % model.encode()

    headers = {"Content-Type": "application/json"}
    assert asks.ask("POST", f"{ONE}/models", content=body(), headers=headers, who=who).status_code == 401
    assert asks.ask("GET", f"{ONE}/models/{model}").status_code == 404


# -- two on one upload


def test_two_clients_on_one_upload_do_not_mix_their_bytes(up: World) -> None:
    """Real sockets: one begins, and another sends the same piece while the first is on its way."""
    asks: Up = up.asks
    data = bytes(range(256)) * 8192
    path = (
        f"{ONE}/uploads/" + asks.made("POST", f"{ONE}/uploads", {"digest": digest(data), "size_bytes": len(data)})["id"]
    )
    statuses: list[int] = []

    def body() -> Iterator[bytes]:
        yield data[: 1 << 20]
        for rest, offset in ((data, 0), (data[1 << 20 :], 1 << 20), (b"x" * len(data), 0)):
            with httpx.Client(base_url=asks.address, trust_env=False) as other:
                headers = {"Authorization": f"Bearer {asks.secret}", "Upload-Offset": str(offset)}
                statuses.append(other.patch(path, content=rest, headers=headers).status_code)
        assert asks.ask("DELETE", path).status_code == 409
        yield data[1 << 20 :]

    headers = {"Upload-Offset": "0", "Content-Length": str(len(data))}
    with httpx.Client(base_url=asks.address, trust_env=False) as first:
        answer = first.patch(path, content=body(), headers=headers | {"Authorization": f"Bearer {asks.secret}"})
    assert answer.status_code == 200 and answer.json()["done"]
    assert statuses == [409, 409, 409]
    assert asks.ask("GET", f"{ONE}/blobs/{digest(data)}").content == data


def test_the_same_blob_from_many_at_once_is_there_once_in_each_project(peopled: World) -> None:
    asks = peopled.asks
    data = name("popular").encode() * 1000
    client: httpx.AsyncClient = asks.client

    async def put(project: str) -> int:
        headers = {"Authorization": f"Bearer {asks.secret}"}
        path = f"/v1/projects/{project}/blobs/{digest(data)}"
        return (await client.put(path, content=data, headers=headers)).status_code

    async def all_of() -> list[int]:
        return list(await asyncio.gather(*(put(project) for project in ("one", "two") * 6)))

    found = asks.runner.run(all_of())
    assert set(found) <= {200, 409, 503} and found.count(200) >= 2, found
    for project in ("one", "two"):
        assert asks.ask("GET", f"/v1/projects/{project}/blobs/{digest(data)}").content == data
