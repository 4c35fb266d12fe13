"""What the API promises of every resource: no lost update, nothing done twice, pages without gaps, errors that help."""

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from operations import ENDLESS, operations, request
from plane import Local, Up, World, local, sample, world

ONE = "/v1/projects/one"


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[World]:
    with local(tmp_path / "home") as asks:
        yield world(asks)


@pytest.fixture
def asks(crowd: World) -> Local:
    found: Local = crowd.asks
    return found


#: What has an ETag and can be changed: its path, the verb, and a change.
CHANGEABLE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "user": ("/v1/users/viewer", "PATCH", {"is_admin": False}),
    "project": (ONE, "PATCH", {"description": "another"}),
    "model": (f"{ONE}/models/m", "PATCH", {"description": "another"}),
    "version": (f"{ONE}/models/m/versions/1", "PATCH", {"description": "another"}),
    "alias": (f"{ONE}/models/m/aliases/champion", "PUT", {"number": 2}),
    "node": ("/v1/nodes/n-one", "PATCH", {"labels": {"a": "b"}}),
}


@pytest.mark.parametrize("kind", CHANGEABLE)
def test_a_change_that_does_not_know_of_another_one_is_refused(kind: str, crowd: World) -> None:
    path, verb, change = CHANGEABLE[kind]
    asks = crowd.asks
    if kind == "node":
        path = f"/v1/nodes/{crowd.ids['one']['node']}"
    if kind == "alias":
        asks.push("one", "m", sample(4.0))
    before = asks.ask("GET", path)
    assert before.status_code == 200, before.text
    etag = before.headers["etag"]
    assert before.json()["etag"] == etag
    first = asks.ask(verb, path, change, headers={"If-Match": etag})
    assert first.status_code == 200 and first.headers["etag"] != etag
    second = asks.ask(verb, path, change, headers={"If-Match": etag})
    assert second.status_code == 412 and second.json()["error"] == "StaleError" and second.json()["hint"]
    assert asks.ask(verb, path, change, headers={"If-Match": "*"}).status_code == 200
    gone = asks.ask("DELETE", path, headers={"If-Match": etag})
    assert gone.status_code in (405, 412)
    assert asks.ask("GET", path).status_code == 200


#: They make what was not there before, or move bytes, which have a digest and no ETag.
WITHOUT_ETAG = {"register_version", "find_missing", "begin_upload", "give_up_upload", "send_upload", "put_blob",
                "put_blobs", "make_user", "make_token", "make_project", "make_model", "make_endpoint",
                "make_node"}  # fmt: skip


def test_each_change_of_what_is_there_looks_at_if_match(crowd: World) -> None:
    """With a tag of something else, no change of the document is done; what says nothing of tags has none."""
    asks, seen = crowd.asks, set()
    token = asks.get("/v1/me", who=crowd.people["viewer"])["token"]
    ids = crowd.ids["one"] | {"user": "viewer", "token": token}
    for name, (method, template) in operations(asks.get("/v1/openapi.json")).items():
        headers = [one["name"] for one in document(crowd, template, method)["parameters"] if one["in"] == "header"]
        if "If-Match" not in headers:
            continue
        seen.add(name)
        before = asks.events()
        path = filled(template, ids)
        answer = asks.ask(method, path, headers={"If-Match": '"999999"'}, **request(name, ids))
        assert answer.status_code == 412, f"{name}: {answer.status_code} {answer.text}"
        assert asks.events() == before
    changes = {name for name, (method, _) in operations(asks.get("/v1/openapi.json")).items() if method != "GET"}
    assert changes - seen == WITHOUT_ETAG


def test_a_decision_about_what_somebody_else_decided_is_refused(crowd: World) -> None:
    path = f"{ONE}/approvals/{crowd.ids['one']['approval']}"
    etag = {"If-Match": crowd.asks.get(path)["etag"]}
    assert crowd.asks.ask("POST", path, {"accept": True}, headers=etag, who=crowd.people["owner"]).status_code == 200
    assert crowd.asks.ask("POST", path, {"accept": False}, headers=etag).status_code == 412
    assert crowd.asks.get(path)["state"] == "accepted"


@pytest.mark.parametrize("kind", CHANGEABLE)
def test_who_has_it_already_is_not_sent_it_again(kind: str, lite: World) -> None:
    crowd = lite
    path = CHANGEABLE[kind][0] if kind != "node" else f"/v1/nodes/{crowd.ids['one']['node']}"
    etag = crowd.asks.ask("GET", path).headers["etag"]
    again = crowd.asks.ask("GET", path, headers={"If-None-Match": f'"other", {etag}'})
    assert again.status_code == 304 and not again.content and again.headers["etag"] == etag
    assert crowd.asks.ask("GET", path, headers={"If-None-Match": '"other"'}).status_code == 200


MAKE = {
    "make_user": ("/v1/users", {"name": "twice"}),
    "make_token": ("/v1/tokens", {"name": "twice"}),
    "make_project": ("/v1/projects", {"name": "twice"}),
    "make_model": (f"{ONE}/models", {"name": "twice"}),
    "make_endpoint": (f"{ONE}/endpoints", {"name": "twice", "model": "m"}),
    "make_node": ("/v1/nodes", {"name": "twice"}),
}


@pytest.mark.parametrize("name", MAKE)
def test_a_request_that_is_sent_twice_is_done_once_and_answered_the_same(name: str, lite: World) -> None:
    asks = lite.asks
    path, order = MAKE[name]
    key = {"Idempotency-Key": f"twice-{name}"}
    first = asks.ask("POST", path, order, headers=key)
    before = asks.events()
    second = asks.ask("POST", path, order, headers=key)
    assert asks.events() == before
    if name == "make_token":
        # Its secret is shown once: to show it again, it would have to be kept.
        assert (first.status_code, second.status_code) == (201, 409) and "secret" not in second.json()
    else:
        assert (first.status_code, second.status_code) == (201, 201) and first.json() == second.json()


@pytest.mark.parametrize("name", MAKE)
def test_a_key_of_another_request_is_refused(name: str, lite: World) -> None:
    asks = lite.asks
    path, order = MAKE[name][0], MAKE[name][1] | {"name": "once"}
    key = {"Idempotency-Key": f"once-{name}"}
    assert asks.ask("POST", path, order, headers=key).status_code == 201
    before = asks.events()
    other = asks.ask("POST", path, order | {"name": "other"}, headers=key)
    assert other.status_code == 409 and "idempotency key" in other.text
    assert asks.events() == before


def test_every_post_of_the_document_is_done_once_for_a_key(crowd: World) -> None:
    asks = crowd.asks
    posts = {
        name: path for name, (method, path) in operations(asks.get("/v1/openapi.json")).items() if method == "POST"
    }
    # A version waits for one decision at a time.
    for name in sorted(posts, key=lambda one: one == "stage_version"):
        if name == "make_token":
            continue
        ids = crowd.ids["one"]
        path = filled(posts[name], ids)
        key = {"Idempotency-Key": f"key-{name}"}
        first = asks.ask("POST", path, headers=key, **request(name, ids))
        assert first.status_code in (200, 201), f"{name}: {first.text}"
        before = asks.events()
        second = asks.ask("POST", path, headers=key, **request(name, ids))
        assert (second.status_code, second.json()) == (first.status_code, first.json()), name
        assert second.headers.get("etag") == first.headers.get("etag"), name
        assert asks.events() == before


def test_an_answer_is_given_again_when_what_it_was_about_is_gone(crowd: World) -> None:
    """Else a client that did not get it would push again what somebody has removed."""
    asks, key = crowd.asks, {"Idempotency-Key": "pushed"}
    asks.made("POST", f"{ONE}/models", {"name": "short-lived"})
    path, order = f"{ONE}/models/short-lived", {"digest": crowd.ids["one"]["digest"]}
    first = asks.ask("POST", f"{path}/versions", order, headers=key)
    asks.made("DELETE", f"{path}/versions/1")
    asks.made("DELETE", path)
    again = asks.ask("POST", f"{path}/versions", order, headers=key)
    assert (first.status_code, again.status_code) == (201, 201) and again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert asks.ask("GET", path).status_code == 404


def test_a_key_is_its_users_own(crowd: World) -> None:
    asks, key = crowd.asks, {"Idempotency-Key": "a-key"}
    first = asks.ask("POST", f"{ONE}/models", {"name": "x"}, headers=key, who=crowd.people["developer"])
    second = asks.ask("POST", f"{ONE}/models", {"name": "y"}, headers=key, who=crowd.people["owner"])
    assert (first.status_code, second.status_code) == (201, 201)


def test_a_request_that_failed_may_be_sent_again(asks: Local) -> None:
    key = {"Idempotency-Key": "a-key"}
    assert asks.ask("POST", f"{ONE}/endpoints", {"name": "new", "model": "later"}, headers=key).status_code == 404
    asks.made("POST", f"{ONE}/models", {"name": "later"})
    assert asks.ask("POST", f"{ONE}/endpoints", {"name": "new", "model": "later"}, headers=key).status_code == 201


@pytest.mark.parametrize("key", ["", "a b", "\xe4", "x" * 1000])
def test_a_key_that_is_none_is_refused(key: str, lite: World) -> None:
    asks = lite.asks
    headers = {b"Idempotency-Key": key.encode("latin-1"), b"Authorization": f"Bearer {asks.secret}".encode()}
    answer = asks.runner.run(asks.client.post("/v1/users", json={"name": "k"}, headers=headers))
    assert answer.status_code == 400


def test_the_same_request_at_the_same_time_makes_one_thing(tmp_path: Path) -> None:
    with Up(tmp_path / "home") as up, ThreadPoolExecutor(8) as hands:
        key = {"Idempotency-Key": "at-once"}

        def make(_: int) -> tuple[int, Any]:
            answer = up.ask("POST", "/v1/projects/default/models", {"name": "once"}, headers=key)
            return answer.status_code, answer.json()

        found = list(hands.map(make, range(16)))
        done = [told for code, told in found if code == 201]
        assert done and all(told == done[0] for told in done)
        assert all(code in (201, 409, 503) for code, _ in found), found
        assert [one["name"] for one in up.get("/v1/projects/default/models")["items"]] == ["once"]


# -- lists


def test_pages_hold_everything_once_while_others_add_and_remove(asks: Local) -> None:
    for number in range(25):
        asks.made("POST", f"{ONE}/models", {"name": f"m-{number:02}"})
    seen: list[str] = []
    cursor = ""
    while True:
        page = asks.get(f"{ONE}/models?limit=4" + (f"&cursor={cursor}" if cursor else ""))
        seen += [one["name"] for one in page["items"]]
        if not page["next"]:
            break
        cursor = page["next"]
        asks.made("DELETE", f"{ONE}/models/{seen[-1]}") if seen[-1].startswith("m-") else None
        asks.made("POST", f"{ONE}/models", {"name": f"a-{len(seen)}"})
    assert [one for one in seen if one.startswith("m-")] == [f"m-{number:02}" for number in range(25)]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=-1", "limit=x", "limit=1e9", "cursor=x", "cursor=%00",
                                   "limit=1&limit=2", "unheard=1"])  # fmt: skip
def test_a_question_that_is_not_understood_is_not_half_answered(query: str, lite: World) -> None:
    answer = lite.asks.ask("GET", f"{ONE}/models?{query}")
    assert answer.status_code in (400, 422) and answer.json()["hint"]


def test_a_cursor_of_another_list_leads_nowhere_else(crowd: World) -> None:
    asks = crowd.asks
    for number in range(3):
        asks.made("POST", "/v1/projects/two/models", {"name": f"secret-{number}"})
    cursor = asks.get("/v1/projects/two/models?limit=2")["next"]
    answer = asks.ask("GET", f"{ONE}/models?cursor={cursor}", who=crowd.people["viewer"])
    assert "secret" not in answer.text


ALTERED = (
    '["m"', "[1]", "[null]", "[true]", "[1.5]", '["m","m"]', '[["m"]]', '{"0":"m"}', '["m\\u0000"]', '["\\ud800"]',
    "[9223372036854775807]", "[-9223372036854775809]", '["\' OR 1=1 --"]', '["' + "m" * 300 + '"]', "[]", '"m"',
    "[NaN]",
)  # fmt: skip


@pytest.mark.parametrize(
    "path", [f"{ONE}/models", f"{ONE}/models/m/versions", f"{ONE}/events", "/v1/tokens", "/v1/devices"]
)
def test_a_cursor_that_was_altered_shows_nothing_of_others_and_breaks_nothing(path: str, peopled: World) -> None:
    asks, who = peopled.asks, peopled.people["viewer"]
    mine = [one.get("id", one.get("seq")) for one in asks.get(path, who=who)["items"]]
    for text in ALTERED:
        cursor = base64.urlsafe_b64encode(text.encode()).decode()
        for sent in (cursor, cursor.rstrip("="), cursor[:-3], cursor + "A"):
            answer = asks.ask("GET", path, params={"cursor": sent}, who=who)
            assert answer.status_code in (200, 400), f"{text}: {answer.status_code} {answer.text}"
            items = answer.json()["items"] if answer.status_code == 200 else []
            assert all(one.get("id", one.get("seq")) in mine for one in items), text


@pytest.mark.parametrize("verb", ["HEAD", "OPTIONS", "TRACE"])
def test_a_verb_that_is_not_there_is_told_so_to_who_is_known(verb: str, lite: World) -> None:
    answer = lite.asks.ask(verb, "/v1/users")
    assert answer.status_code == 405 and "GET" in answer.headers["allow"]
    assert not any(name.startswith("access-control") for name in answer.headers)


# -- examples


def example(told: dict[str, Any], parts: dict[str, Any]) -> Any:
    """Return what a schema shows as its example: its own, or one made of those of its parts."""
    if "$ref" in told:
        return example(parts[told["$ref"].rpartition("/")[2]], parts)
    if told.get("examples"):
        return told["examples"][0]
    if "default" in told:
        return told["default"]
    if "items" in told:
        return [example(told["items"], parts)]
    if "properties" in told:
        shown = {name for name, one in told["properties"].items() if "examples" in one} | set(told.get("required", ()))
        return {name: example(told["properties"][name], parts) for name in sorted(shown)}
    raise AssertionError(f"a client is not shown what to send: {told}")


def test_every_example_is_valid_where_it_stands(lite: World) -> None:
    schema = lite.asks.get("/v1/openapi.json")
    parts, count = schema["components"]["schemas"], 0
    for name, told in parts.items():
        for field, one in told.get("properties", {}).items():
            rule = jsonschema_rs.validator_for(one | {"components": schema["components"]})
            for shown in one.get("examples", ()):
                assert rule.is_valid(shown), f"{name}.{field}: {shown!r}"
                count += 1
    assert count > 80


def test_a_request_made_of_the_examples_alone_is_understood(crowd: World) -> None:
    asks = crowd.asks
    schema = asks.get("/v1/openapi.json")
    parts, ids, count = schema["components"]["schemas"], crowd.ids["one"] | {"user": "viewer"}, 0
    for name, (method, template) in operations(schema).items():
        content = document(crowd, template, method).get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            continue
        body = example(content["schema"], parts)
        jsonschema_rs.validate(content["schema"] | {"components": schema["components"]}, body)
        path = filled(template, ids)
        answer = asks.ask(method, path, body)
        assert answer.status_code in (200, 201, 403, 404, 409), f"{name}: {answer.status_code} {answer.text}"
        count += 1
    assert count > 15


# -- errors


def test_every_error_says_what_why_and_what_to_try(crowd: World) -> None:
    """Each operation is asked about things that are not there, with a body that is not understood, and by nobody."""
    told = operations(crowd.asks.get("/v1/openapi.json"))
    ids = {"project": "nowhere", "model": "nothing", "version": "1", "endpoint": "nothing", "user": "nobody",
           "token": "0", "node": "nothing", "alias": "nothing", "digest": "0" * 64, "upload": "0" * 32,
           "approval": "0" * 32, "build": "0"}  # fmt: skip
    seen = set()
    for name, (method, template) in told.items():
        if name in ENDLESS:
            continue
        path = filled(template, ids)
        for who, more in (
            (None, request(name, crowd.ids["one"])),
            (None, {"content": b"{", "headers": {"Content-Type": "application/json"}}),
            ("", {}),
        ):
            if method == "GET" and who is None and more:
                continue
            answer = crowd.asks.ask(method, path, who=who, **dict(more))
            if answer.is_success:
                continue
            problem = answer.json()
            assert answer.headers["content-type"] == "application/problem+json", f"{name}: {answer.headers}"
            assert problem["status"] == answer.status_code < 500 and problem["type"].startswith("tilth:")
            assert problem["title"] == problem["what"] and (problem["why"] or problem["hint"]), f"{name}: {problem}"
            assert str(answer.status_code) in document(crowd, template, method)["responses"], (
                f"{name}: {answer.status_code}"
            )
            seen.add(answer.status_code)
    assert {400, 401, 404} <= seen


def filled(template: str, ids: dict[str, str]) -> str:
    return template.format_map({one.partition("}")[0]: ids[one.partition("}")[0]] for one in template.split("{")[1:]})


def document(crowd: World, template: str, method: str) -> dict[str, Any]:
    found: dict[str, Any] = crowd.asks.plane.desk.app.openapi_schema["paths"][template][method.lower()]
    return found


def test_every_operation_is_documented_with_examples_and_errors(lite: World) -> None:
    schema = lite.asks.get("/v1/openapi.json")
    for path, methods in schema["paths"].items():
        for method, told in methods.items():
            where = f"{method} {path}"
            assert told["summary"] and told["operationId"] and told["tags"], where
            assert {"401", "403", "400", "503"} <= set(told["responses"]), where
            body = told.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            if name := body.get("$ref", "").rpartition("/")[2]:
                assert "example" in json.dumps(schema["components"]["schemas"][name]), f"{where}: {name}"


def test_what_is_not_there_and_what_is_not_yours_are_told_alike(crowd: World) -> None:
    who = crowd.people["neighbour"]
    other = crowd.asks.ask("GET", f"{ONE}/models/m", who=who)
    nothing = crowd.asks.ask("GET", "/v1/projects/nowhere/models/m", who=who)
    assert (other.status_code, other.json()) == (nothing.status_code, nothing.json())
