"""Endpoints: what is wanted of them, and what is."""

from typing import Annotated, Any, Literal

from pydantic import Field

from tilth.client.shapes.shape import Etag, Order, Shape, Text, Time

#: Percent by version number.
Shares = Annotated[dict[Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")], float], Field(max_length=16)]
State = Literal["empty", "deploying", "ready", "degraded", "failed", "stopped"]


class Wanted(Shape):
    """Versions that answer, and versions that look on, each with its share of requests in percent."""

    traffic: dict[str, float] = Field(examples=[{"3": 90, "4": 10}])
    shadow: dict[str, float] = Field(examples=[{"5": 5}])


class Standing(Shape):
    """What was last seen: `deployment` is the one that answers, and `about` the one that was wanted then.

    Where `about` is behind the endpoint's own `deployment`, nothing is known of that one yet.
    """

    deployment: int
    about: int
    state: State
    message: str
    traffic: dict[str, float]
    shadow: dict[str, float]
    versions: dict[str, dict[str, Any]] = Field(examples=[{"3": {"state": "ready", "reason": "", "build": "ort fp32"}}])
    at: Time


class Endpoint(Shape):
    """A served name. `deployment` counts what was wanted of it; `standing` is what was seen last, if it was."""

    id: str
    name: str = Field(examples=["fraud"])
    project: str
    model: str
    description: str
    deployment: int
    wanted: Wanted
    standing: Standing | None
    served_as: str = Field(examples=["default.fraud"], description="Its model name in the Open Inference Protocol.")
    created_at: Time
    etag: Etag


class NewEndpoint(Order):
    """An endpoint to be made; it serves versions of one model."""

    name: str = Field(min_length=1, max_length=64, examples=["fraud"])
    model: str = Field(min_length=1, max_length=64, examples=["fraud"])
    description: Text = ""


class Deploy(Order):
    """A version to be deployed, with its share of the traffic; the others give up theirs in proportion."""

    version: str = Field(min_length=1, max_length=64, examples=["3"], description="A number, an alias or `latest`.")
    traffic: float = Field(default=100, ge=0, le=100, description="Percent of the requests that it answers.")
    shadow: float = Field(default=0, ge=0, le=100, description="Percent that it sees without answering.")
    note: Text = ""


class Promote(Order):
    """A version that is to take all traffic."""

    version: str = Field(min_length=1, max_length=64, examples=["4"])
    note: Text = ""


class Rollback(Order):
    """The deployment to go back to; none: the one before the newest."""

    deployment: int | None = Field(default=None, ge=1, examples=[2])
    note: Text = ""


class Deployment(Shape):
    """What was wanted of an endpoint, once."""

    number: int
    wanted: Wanted
    note: str
    created_by: str
    created_at: Time


class Usage(Shape):
    """What a version of an endpoint does: over the last seconds, from the serving workers' own counters."""

    version: str
    requests_per_s: float
    errors_per_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    requests: int = Field(description="Since the server was started.")
    errors: int


class UsagePoint(Shape):
    """Usage of all versions at a time."""

    at: Time
    versions: list[Usage]
