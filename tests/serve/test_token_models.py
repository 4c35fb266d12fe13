"""Credentials for some models: every way to reach another one, and what answers tell of those that there are."""

import contextlib
import hashlib
import http.client
import json
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from server import ROW, TILTH, Reply, Server, ask, body, bundle
from test_tokens import signed_raw

import tilth
from tilth.core.errors import InvalidError, RefusedError
from tilth.serve.access import Access, ForbiddenError
from tilth.serve.grpc_messages import CALLS, SERVICE, messages
from tilth.serve.jwt import JwtVerifier
from tilth.serve.tokens import Principal, new_token, parse_tokens
from tilth.testing.models import affine

DEFAULT, LAB, BOTH, STAR, PLAIN, MIXED, OPERATOR = (
    "of-default", "of-lab", "of-both", "of-star", "of-all", "of-default-and-manage", "of-the-operator"
)  # fmt: skip
SCOPES = {
    DEFAULT: "infer@default.*",
    LAB: "infer@lab.ocr",
    BOTH: "infer@default.*,infer@lab.ocr",
    STAR: "infer@*",
    PLAIN: "infer",
    MIXED: "infer@default.*,manage",
    OPERATOR: "manage,metrics",
}
OWN, OTHER = "default.a", "lab.ocr"
MODELS = (OWN, "default2.x", "defaultx", OTHER)
#: Not said to whom only `default.*` is for; an error repeats what was asked for, so that is asked as another name.
SECRETS = ("default2.x", "defaultx", "lab.ocr")


def line(scopes: str, presented: str = "x", name: str = "") -> str:
    return f"sha256:{hashlib.sha256(presented.encode()).hexdigest()} {scopes} {name}".strip()


def entry(scopes: str) -> Principal:
    found = parse_tokens(line(scopes, "s").encode(), "tokens").find("s")
    assert found is not None
    return found


# The file.


@pytest.mark.parametrize(
    ("scopes", "models"),
    [
        ("infer", ()),
        ("manage,infer,metrics", ()),
        ("infer@default.*,infer@lab.ocr", ("default.*", "lab.ocr")),
        ("infer@b,manage,infer@a,infer@b", ("a", "b")),
        ("infer@*", ("*",)),
        ("infer@a*", ("a*",)),
        ("infer@A-b_c.9", ("A-b_c.9",)),
        (f"infer@{'m' * 128}", ("m" * 128,)),
        (f"infer@{'m' * 128}*", ("m" * 128 + "*",)),
    ],
)
def test_a_line_limits_infer_to_the_models_that_it_names(scopes: str, models: tuple[str, ...]) -> None:
    found = entry(scopes)
    assert found.models == models and "infer" in found.scopes
    assert found.scopes == {one.partition("@")[0] for one in scopes.split(",")}


@pytest.mark.parametrize(
    "scopes",
    [
        "infer@",
        "infer@../x",
        "infer@..",
        "infer@.x",
        "infer@-x",
        "infer@a*b",
        "infer@**",
        "infer@*a",
        "infer@a/b",
        "infer@a/*",
        "infer@a,b c",
        "infer@a,b",
        "infer@a,",
        "infer@a@b",
        "infer@ä",
        "infer@a?",
        "infer@[a]",
        "INFER@a",
        "Infer@a",
        "manage@a",
        "metrics@*",
        "@a",
        "infer @a",
        f"infer@{'m' * 129}",
        f"infer@{'m' * 129}*",
        "infer,infer@a",
        "infer@a,manage,infer",
        "infer@*,infer",
    ],
)
def test_a_line_that_is_malformed_or_contradicts_itself_is_refused_by_its_number(scopes: str) -> None:
    bad = line(scopes, "the-secret", "caller")
    with pytest.raises(InvalidError) as caught:
        parse_tokens(f"# tokens\n{line('infer')}\n{bad}\n".encode(), "tokens")
    assert "`tokens:3`" in caught.value.what
    assert hashlib.sha256(b"the-secret").hexdigest()[:8] not in str(caught.value)


def test_a_new_token_can_be_for_some_models() -> None:
    secret, made = new_token(["infer@default.*", "infer@lab.ocr"], "ci")
    found = parse_tokens(made.encode(), "tokens").find(secret)
    assert found == Principal("ci", frozenset({"infer"}), ("default.*", "lab.ocr"))
    with pytest.raises(InvalidError):
        new_token(["infer", "infer@a"])


@pytest.mark.parametrize("text", ["# tilth: no tokens\n", "# tilth: no tokens", "\n  # tilth: no tokens  \r\n\n"])
def test_nobody_is_let_in_where_the_file_says_so(text: str) -> None:
    assert len(parse_tokens(text.encode(), "tokens")) == 0


@pytest.mark.parametrize("text", ["", "\n", "#", "# tilth: no token", "# Tilth: No Tokens", "# a\n# tilth: no tokens"])
def test_a_file_that_is_empty_by_accident_is_not_taken_for_nobody(text: str) -> None:
    with pytest.raises(InvalidError, match="form of a token file") as caught:
        parse_tokens(text.encode(), "tokens")
    assert "nobody could use the server" in caught.value.why


def test_the_comment_for_nobody_beside_a_token_means_nothing() -> None:
    assert len(parse_tokens(f"# tilth: no tokens\n{line('infer')}".encode(), "tokens")) == 1


# The check.


@pytest.mark.parametrize(
    ("scopes", "model", "may"),
    [
        ("infer@default.*", "default.a", True),
        ("infer@default.*", "default.", True),
        ("infer@default.*", "default.a.b", True),
        ("infer@default.*", "default2.x", False),
        ("infer@default.*", "defaultx", False),
        ("infer@default.*", "default", False),
        ("infer@default.*", "Default.a", False),
        ("infer@default.*", "xdefault.a", False),
        ("infer@default.*", " default.a", False),
        ("infer@default.*", "default\0.a", False),
        ("infer@lab.ocr", "lab.ocr", True),
        ("infer@lab.ocr", "lab.ocr2", False),
        ("infer@lab.ocr", "labxocr", False),
        ("infer@lab.ocr", "lab", False),
        ("infer@lab.ocr", "lab.ocr\n", False),
        ("infer@default.*,infer@lab.ocr", "lab.ocr", True),
        ("infer@default.*,infer@lab.ocr", "default.b", True),
        ("infer@default.*,infer@lab.ocr", "lab.other", False),
        ("infer@*", "anything", True),
        ("infer@*", "", False),
        ("infer@default.*", "", False),
        ("infer", "", True),
        ("infer", "anything", True),
    ],
)
def test_a_pattern_lets_in_its_own_names_alone(scopes: str, model: str, may: bool) -> None:
    access = Access(parse_tokens(line(scopes, "s", "caller").encode(), "tokens"))
    with contextlib.nullcontext() if may else pytest.raises(ForbiddenError):
        assert access.check("Bearer s", "infer", model).name == "caller"


def test_a_check_that_forgets_the_model_lets_nobody_in_who_is_for_some() -> None:
    access = Access(parse_tokens(line("infer@*,metrics", "s", "caller").encode(), "tokens"))
    with pytest.raises(ForbiddenError, match="all models"):
        access.check("Bearer s", "infer")
    assert access.check("Bearer s", "infer", None).name == "caller"
    assert access.check("Bearer s", "metrics").name == "caller"
    with pytest.raises(ForbiddenError, match="scope `manage`"):
        access.check("Bearer s", "manage", "default.a")


def test_a_refusal_repeats_some_of_a_thousand_models_and_cuts_a_long_name() -> None:
    scopes = ",".join(f"infer@m{number:04}" for number in range(1000))
    access = Access(parse_tokens(line(scopes, "s", "caller").encode(), "tokens"))
    with pytest.raises(ForbiddenError) as caught:
        access.check("Bearer s", "infer", "x" * 100_000)
    assert "`m0009` and 990 more" in caught.value.why and len(str(caught.value)) < 1000


NAMES = st.text("ab.", max_size=4)


@given(st.sets(st.tuples(st.text("ab.", max_size=3), st.booleans()), min_size=1), NAMES)
def test_names_and_beginnings_of_names_say_what_the_plain_rule_says(said: set[tuple[str, bool]], model: str) -> None:
    models = tuple(text + ("*" if begins else "") for text, begins in said if text or begins)
    plain = any(model.startswith(text) if begins else model == text for text, begins in said if text or begins)
    assert Principal("caller", frozenset({"infer"}), models).may_use(model) == (not models or (plain and model != ""))


# JWTs.


def jwt_of(scope: Any) -> Principal:
    verifier = JwtVerifier({"EdDSA": lambda _, __: True}, issuer=None, audience=None)
    return verifier.verify(signed_raw({"alg": "EdDSA"}, {"exp": int(time.time()) + 60, "sub": "ada", "scope": scope}))


@pytest.mark.parametrize(
    ("scope", "scopes", "models"),
    [
        ("openid infer@default.* infer@lab.ocr", {"infer"}, ("default.*", "lab.ocr")),
        (["infer@a", "metrics"], {"infer", "metrics"}, ("a",)),
        ("infer", {"infer"}, ()),
        ("infer@../x infer@ infer@a*b manage@a", set(), ()),
        ("infer@../x infer@a", {"infer"}, ("a",)),
    ],
)
def test_a_jwt_can_be_for_some_models(scope: Any, scopes: set[str], models: tuple[str, ...]) -> None:
    found = jwt_of(scope)
    assert found.scopes == scopes and found.models == models


def test_a_jwt_that_is_for_all_models_and_for_some_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        jwt_of("infer infer@a")
    assert "`infer@...`" in caught.value.why


# A server.


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server of four models behind tokens, whose management has a port of its own."""
    folder = tmp_path_factory.mktemp("models")
    small = affine()
    tilth.import_model(small.model, small.inputs(4), out=folder / "m.tilth")
    tilth.build(folder / "m.tilth", budget_s=1.0, batches=(1,), engines=("ort",))
    tokens = folder / "tokens"
    tokens.touch(0o600)
    tokens.write_text("\n".join(line(SCOPES[one], one, one) for one in SCOPES), encoding="utf-8")
    options = ["--tokens", tokens, "--manage", "127.0.0.1:0", "--workers", "1", "--isolate", "never"]
    with Server(*(f"{name}={folder / 'm.tilth'}" for name in MODELS), *options, command=TILTH) as started:
        yield started


def sent(server: Server, token: str, method: str, path: str, data: bytes | None = None) -> Reply:
    return server.ask(method, path, data, {"Authorization": f"Bearer {token}"})


def managed(server: Server, token: str, method: str, path: str, data: bytes | None = None) -> Reply:
    host, _, port = server.manage.rpartition(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=20)) as connection:
        return ask(connection, method, path, data, {"Authorization": f"Bearer {token}"})


ROWS = json.dumps({"instances": [ROW]}).encode()
#: Every route that names a model and needs `infer`: method, path, and body.
ROUTES: list[tuple[str, str, bytes | None]] = [
    ("POST", "/v2/models/{}/infer", body()),
    ("POST", "/v2/models/{}/versions/1/infer", body()),
    ("GET", "/v2/models/{}", None),
    ("GET", "/v2/models/{}/versions/1", None),
    ("GET", "/v2/models/{}/config", None),
    ("GET", "/v2/models/{}/versions/1/config", None),
    ("GET", "/v2/models/{}/stats", None),
    ("GET", "/v2/models/{}/versions/1/stats", None),
    ("POST", "/v1/models/{}:predict", ROWS),
    ("POST", "/v1/models/{}/versions/1:predict", ROWS),
]


@pytest.mark.parametrize(("method", "path", "data"), ROUTES)
def test_a_route_that_lets_a_credential_for_some_models_reach_another(
    server: Server, method: str, path: str, data: bytes | None
) -> None:
    def statuses(model: str) -> dict[str, int]:
        tokens = (DEFAULT, LAB, BOTH, STAR, PLAIN, MIXED, OPERATOR)
        return {one: sent(server, one, method, path.format(model), data).status for one in tokens}

    everyone = {BOTH: 200, STAR: 200, PLAIN: 200, OPERATOR: 403}
    assert statuses(OWN) == {DEFAULT: 200, LAB: 403, MIXED: 200, **everyone}
    assert statuses(OTHER) == {DEFAULT: 403, LAB: 200, MIXED: 403, **everyone}
    assert {name: sent(server, DEFAULT, method, path.format(name), data).status for name in MODELS} == {
        OWN: 200, "default2.x": 403, "defaultx": 403, OTHER: 403
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("%6c%61b%2e%6Fcr", 403),
        ("lab%2Eocr", 403),
        ("default%2Ea", 200),
        ("%64efault.a", 200),
        ("default%2e..%2flab.ocr", 404),
        ("default.%2F..%2Flab.ocr", 404),
        ("default./../lab.ocr", 404),
        ("./lab.ocr", 404),
        ("default.a%00", 404),
        ("default.%252e", 404),
        ("lab.ocr%00default.", 403),
        ("lab.ocr%3Fdefault.", 403),
        ("%ff", 403),
        ("", 403),
        ("%20default.a", 403),
        ("DEFAULT.a", 403),
        ("versions", 403),
        ("stats", 403),
    ],
)
def test_a_name_in_another_spelling_reaches_no_other_model(server: Server, name: str, status: int) -> None:
    for method, path, data in (ROUTES[0], ROUTES[1], ROUTES[4], ROUTES[8]):
        reply = sent(server, DEFAULT, method, path.format(name), data)
        assert reply.status == status, (path, reply.data)
        assert sent(server, PLAIN, method, path.format(name), data).status in (200, 404)


def test_a_query_or_a_header_does_not_choose_another_model(server: Server) -> None:
    assert sent(server, DEFAULT, "POST", "/v2/models/lab.ocr/infer?model=default.a", body()).status == 403
    told = body(model_name="lab.ocr", name="lab.ocr", parameters={"model_name": "lab.ocr"})
    assert sent(server, DEFAULT, "POST", f"/v2/models/{OWN}/infer", told).json["model_name"] == OWN


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("GET", "/v2/cudasharedmemory/region/default.a/status"),
        ("POST", "/v2/systemsharedmemory/region/default.a/register"),
        ("POST", "/v2/cudasharedmemory/region/default.a/unregister"),
    ],
)
def test_what_is_about_all_models_is_not_for_a_credential_for_some(server: Server, method: str, path: str) -> None:
    data = b"{}" if method == "POST" else None
    for token in (DEFAULT, BOTH, STAR, MIXED):
        reply = sent(server, token, method, path, data)
        assert reply.status == 403 and "all models" in reply.json["what"]
    assert sent(server, PLAIN, method, path, data).status in (200, 422)


def test_the_server_itself_is_told_to_whom_some_models_are_for(server: Server) -> None:
    for path in ("/v2", "/v2/"):
        assert {one: sent(server, one, "GET", path).status for one in (DEFAULT, STAR, PLAIN, OPERATOR, "wrong")} == {
            DEFAULT: 200, STAR: 200, PLAIN: 200, OPERATOR: 403, "wrong": 401
        }  # fmt: skip


def test_the_port_of_the_management_is_no_way_around(server: Server) -> None:
    for method, path, data in (*ROUTES, ("POST", "/v2/repository/index", b"{}"), ("GET", "/metrics", None)):
        assert managed(server, DEFAULT, method, path.format(OTHER), data).status in (403, 404)
    for path in ("index", f"models/{OWN}/load", f"models/{OWN}/unload"):
        assert managed(server, DEFAULT, "POST", f"/v2/repository/{path}", b"{}").status == 403
        assert sent(server, DEFAULT, "POST", f"/v2/repository/{path}", b"{}").status == 404
    assert managed(server, MIXED, "POST", "/v2/repository/index", b"{}").status == 200, "`manage` has no models"


def test_no_answer_tells_a_name_that_a_credential_is_not_for(server: Server) -> None:
    said = [
        sent(server, DEFAULT, method, path.format(model), data).data.decode().replace(model, "")
        for method, path, data in (*ROUTES, ("GET", "/v2/models/{}/ready", None), ("GET", "/v2/models/{}/nope", None))
        for model in ("default.nobody", "defaultz", OWN)
    ]
    paths = ("/v2", "/v2/models/stats", "/v2/health/ready", "/openapi.json", "/metrics", "/v2/nope", "/v2/models")
    said += [sent(server, token, "GET", path).data.decode() for path in paths for token in (DEFAULT, "wrong")]
    assert not [one for one in said for name in SECRETS if name in one]


def test_a_model_that_is_not_there_is_missing_for_its_own_and_forbidden_for_others(server: Server) -> None:
    for method, path, data in ROUTES:
        reply = sent(server, DEFAULT, method, path.format("default.nobody"), data)
        assert reply.status == 404 and "there is no model" in reply.json["what"]
        # Whether the model of another is there is not told either.
        found = [sent(server, DEFAULT, method, path.format(name), data) for name in (OTHER, "lab.gone")]
        assert [one.status for one in found] == [403, 403]
        assert found[0].json["what"] == found[1].json["what"].replace("lab.gone", OTHER)


def test_names_are_not_told_by_what_is_asked_without_a_credential(server: Server) -> None:
    reply = server.get("/v2/models/nobody/ready")
    assert reply.status == 404 and not [name for name in MODELS if name in reply.data.decode()]


def test_a_server_without_credentials_goes_on_telling_what_it_serves(tmp_path: Path) -> None:
    with Server(f"shown={bundle(tmp_path / 'm.tilth')}", "--workers", "1") as opened:
        assert "`shown`" in opened.get("/v2/models/nobody").json["why"]


# gRPC.


class Caller:
    """A client of one credential."""

    def __init__(self, channel: grpc.Channel, token: str) -> None:
        self._channel, self._made, self._metadata = channel, messages(), [("authorization", f"Bearer {token}")]

    def status(self, called: str, /, **fields: str) -> str:
        """Return the name of the status of a call, and leave what it said in `said`."""
        taken, given = next((taken, given) for call, taken, given in CALLS if call == called)
        request = self._made[taken](**fields)
        if called == "ModelInfer":
            request = self.infer_request(**fields)
        call = self._channel.unary_unary(
            f"/{SERVICE}/{called}", self._made[taken].SerializeToString, self._made[given].FromString
        )
        try:
            self.said = str(call(request, timeout=20, metadata=self._metadata))
        except grpc.RpcError as error:
            self.said = error.details()
            return str(error.code().name)
        return "OK"

    def infer_request(self, **fields: str) -> Any:
        request = self._made["ModelInferRequest"](**fields)
        request.inputs.add(name="x", datatype="FP32", shape=[1, len(ROW)])
        request.raw_input_contents.append(struct.pack(f"<{len(ROW)}f", *ROW))
        return request

    def stream(self, models: Sequence[str]) -> list[tuple[str, str]]:
        """Return the id and the error of every answer; the last one is the status where the stream was ended."""
        call = self._channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            self._made["ModelInferRequest"].SerializeToString,
            self._made["ModelStreamInferResponse"].FromString,
        )
        requests = [self.infer_request(model_name=name, id=str(number)) for number, name in enumerate(models)]
        found = []
        try:
            for answer in call(iter(requests), timeout=20, metadata=self._metadata):
                found.append((answer.infer_response.id, answer.error_message))
        except grpc.RpcError as error:
            found.append(("ended", error.code().name))
        return found


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as made:
        yield made


@pytest.mark.parametrize("name", ["ModelInfer", "ModelMetadata", "ModelConfig", "ModelStatistics"])
@pytest.mark.parametrize("version", ["", "1"])
def test_a_call_that_lets_a_credential_for_some_models_reach_another(
    channel: grpc.Channel, name: str, version: str
) -> None:
    def statuses(model: str) -> dict[str, str]:
        fields = (
            {"model_name": model, "model_version": version}
            if name == "ModelInfer"
            else {"name": model, "version": version}
        )
        return {one: Caller(channel, one).status(name, **fields) for one in (DEFAULT, LAB, STAR, PLAIN, OPERATOR)}

    denied = "PERMISSION_DENIED"
    assert statuses(OWN) == {DEFAULT: "OK", LAB: denied, STAR: "OK", PLAIN: "OK", OPERATOR: denied}
    assert statuses(OTHER) == {DEFAULT: denied, LAB: "OK", STAR: "OK", PLAIN: "OK", OPERATOR: denied}
    for model in ("default2.x", "defaultx", "lab.gone", ""):
        assert statuses(model)[DEFAULT] == denied


@pytest.mark.parametrize("kind", ["System", "Cuda"])
@pytest.mark.parametrize("verb", ["Status", "Register", "Unregister"])
def test_a_region_named_like_an_own_model_is_not_one(channel: grpc.Channel, kind: str, verb: str) -> None:
    for token in (DEFAULT, STAR):
        assert Caller(channel, token).status(f"{kind}SharedMemory{verb}", name=OWN) == "PERMISSION_DENIED"
    assert Caller(channel, PLAIN).status(f"{kind}SharedMemory{verb}", name=OWN) in ("OK", "UNIMPLEMENTED")


def test_calls_about_all_models_are_denied_and_the_server_itself_is_told(channel: grpc.Channel) -> None:
    for token in (DEFAULT, STAR):
        assert Caller(channel, token).status("ModelStatistics") == "PERMISSION_DENIED"
        assert Caller(channel, token).status("ServerMetadata") == "OK"
    assert Caller(channel, PLAIN).status("ModelStatistics") == "OK"
    assert Caller(channel, OPERATOR).status("ServerMetadata") == "PERMISSION_DENIED"


def test_every_call_that_needs_infer_asks_for_the_model_or_for_all(channel: grpc.Channel) -> None:
    open_ones = {"ServerLive", "ServerReady", "ModelReady", "ServerMetadata"}
    for name, _, _ in CALLS:
        if name not in open_ones:
            assert Caller(channel, LAB).status(name) in ("PERMISSION_DENIED", "UNIMPLEMENTED"), name


def test_no_call_tells_a_name_that_a_credential_is_not_for(channel: grpc.Channel) -> None:
    caller = Caller(channel, DEFAULT)
    for name in ("ModelMetadata", "ModelConfig", "ModelStatistics", "ModelReady", "ModelInfer"):
        field = "model_name" if name == "ModelInfer" else "name"
        for model in ("default.nobody", OWN):
            caller.status(name, **{field: model})
            assert not [one for one in SECRETS if one in caller.said]
        assert caller.status(name, **{field: "default.nobody"}) == "NOT_FOUND"


def test_a_stream_answers_for_own_models_and_goes_on_after_one_that_is_not(channel: grpc.Channel) -> None:
    models = [OWN, OTHER, OWN, "defaultx", "", "lab.gone", "default.nobody", OWN]
    found = Caller(channel, DEFAULT).stream(models)
    assert [id for id, _ in found] == [str(number) for number in range(len(models))]
    assert [not error for _, error in found] == [one == OWN for one in models]
    denied = [error.splitlines()[0] for _, error in found if "may not use" in error]
    assert denied == [
        f"`{DEFAULT}` may not use {one}"
        for one in ("model `lab.ocr`", "model `defaultx`", "what is about all models", "model `lab.gone`")
    ]
    assert not [error for _, error in found[6:] for name in SECRETS if name in error]


def test_a_stream_without_infer_is_ended_before_its_first_message(channel: grpc.Channel) -> None:
    assert Caller(channel, OPERATOR).stream([OWN]) == [("ended", "PERMISSION_DENIED")]
    assert Caller(channel, "wrong").stream([OWN]) == [("ended", "UNAUTHENTICATED")]
