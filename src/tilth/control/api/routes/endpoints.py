"""Endpoints: what is wanted of them, and what they do."""

from collections.abc import Callable

from tilth.client.shapes.endpoint import (
    Deploy,
    Deployment,
    Endpoint,
    NewEndpoint,
    Promote,
    Rollback,
    UsagePoint,
)
from tilth.client.shapes.shape import Listing
from tilth.control.api.desk import DEFAULT_LIMIT, Call, Cursor, Desk, Limit
from tilth.control.records import endpoints

_ALL = "/v1/projects/{project}/endpoints"
_ONE = f"{_ALL}/{{endpoint}}"


def declare(desk: Desk, usage: Callable[[str], list[UsagePoint]]) -> None:
    """Declare the routes; `usage` tells what an endpoint did of late, by the name that it is served as."""

    @desk.read(_ALL, "endpoint.read", summary="List endpoints")
    def list_endpoints(call: Call, cursor: Cursor = "", limit: Limit = DEFAULT_LIMIT) -> Listing[Endpoint]:
        return endpoints.listed(call.connection, call.project["id"], cursor, limit)

    @desk.change("POST", _ALL, "endpoint.change", summary="Make an endpoint", status=201)
    def make_endpoint(call: Call, body: NewEndpoint) -> Endpoint:
        return endpoints.make(call.change, call.project, body)

    @desk.read(_ONE, "endpoint.read", summary="Get an endpoint: what is wanted of it, and what is")
    def get_endpoint(call: Call, endpoint: str) -> Endpoint:
        return endpoints.get(call.connection, call.project["id"], endpoint)

    @desk.change("DELETE", _ONE, "endpoint.change", summary="Remove an endpoint")
    def remove_endpoint(call: Call, endpoint: str) -> None:
        endpoints.remove(call.change, call.project, endpoint, call.match)

    @desk.change("POST", f"{_ONE}/deploy", "endpoint.change", summary="Deploy a version, with a share of the traffic")
    def deploy_version(call: Call, endpoint: str, body: Deploy) -> Endpoint:
        return endpoints.deploy(call.change, call.project, endpoint, body, call.match)

    @desk.change("POST", f"{_ONE}/promote", "endpoint.change", summary="Let one version answer everything")
    def promote_version(call: Call, endpoint: str, body: Promote) -> Endpoint:
        return endpoints.promote(call.change, call.project, endpoint, body, call.match)

    @desk.change("POST", f"{_ONE}/rollback", "endpoint.change", summary="Go back to an earlier deployment")
    def roll_back(call: Call, endpoint: str, body: Rollback) -> Endpoint:
        return endpoints.rollback(call.change, call.project, endpoint, body, call.match)

    @desk.read(f"{_ONE}/deployments", "endpoint.read", summary="List what was wanted of an endpoint, newest first")
    def list_deployments(
        call: Call, endpoint: str, cursor: Cursor = "", limit: Limit = DEFAULT_LIMIT
    ) -> Listing[Deployment]:
        row = endpoints.found(call.connection, call.project["id"], endpoint)
        return endpoints.history(call.connection, row["id"], cursor, limit)

    @desk.read(f"{_ONE}/usage", "endpoint.read", summary="What an endpoint did in the last minutes")
    def get_usage(call: Call, endpoint: str) -> Listing[UsagePoint]:
        row = endpoints.found(call.connection, call.project["id"], endpoint)
        return Listing[UsagePoint](items=usage(endpoints.served_as(row["project"], row["name"])))
