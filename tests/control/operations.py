"""Every operation of the API with what it is for, restated by hand, and a request that works for who may."""

from collections.abc import Mapping
from typing import Any

from plane import Sample, sample

from tilth.client.parcel import packed
from tilth.core.digest import digest

ROLES = ("caller", "viewer", "developer", "operator", "admin")
#: The least that somebody has to be to do it in a project; `somebody` has any accepted token, `reader` is a viewer of
#: some project, `administrator` administers the installation by a token that narrows nothing.
LEAST: Mapping[str, str] = {
    "get_me": "somebody",
    "list_tokens": "somebody",
    "make_token": "somebody",
    "get_token": "somebody",
    "revoke_token": "somebody",
    "list_projects": "somebody",
    "list_nodes": "reader",
    "get_node": "reader",
    "list_devices": "reader",
    "list_users": "administrator",
    "make_user": "administrator",
    "get_user": "administrator",
    "change_user": "administrator",
    "make_project": "administrator",
    "make_node": "administrator",
    "change_node": "administrator",
    "remove_node": "administrator",
    "list_all_events": "administrator",
    "follow_all_events": "administrator",
    "export_events": "administrator",
    "check_events": "administrator",
    "get_project": "viewer",
    "change_project": "admin",
    "remove_project": "admin",
    "list_members": "viewer",
    "put_member": "admin",
    "remove_member": "admin",
    "list_models": "viewer",
    "make_model": "developer",
    "get_model": "viewer",
    "change_model": "developer",
    "remove_model": "developer",
    "list_versions": "viewer",
    "register_version": "developer",
    "get_version": "viewer",
    "change_version": "developer",
    "remove_version": "developer",
    "list_builds": "viewer",
    "get_build": "viewer",
    "list_aliases": "viewer",
    "get_alias": "viewer",
    "put_alias": "developer",
    "remove_alias": "developer",
    "stage_version": "operator",
    "list_approvals": "viewer",
    "get_approval": "viewer",
    "decide_approval": "operator",
    "get_blob_size": "viewer",
    "get_blob": "viewer",
    "put_blob": "developer",
    "put_blobs": "developer",
    "find_missing": "developer",
    "begin_upload": "developer",
    "get_upload": "developer",
    "give_up_upload": "developer",
    "send_upload": "developer",
    "list_endpoints": "viewer",
    "make_endpoint": "operator",
    "get_endpoint": "viewer",
    "remove_endpoint": "operator",
    "deploy_version": "operator",
    "promote_version": "operator",
    "roll_back": "operator",
    "list_deployments": "viewer",
    "get_usage": "viewer",
    "list_events": "viewer",
    "follow_events": "viewer",
}
#: They answer without an end.
ENDLESS = frozenset(("follow_all_events", "follow_events"))

EXTRA: Sample = sample(3.0)
_FRESH = "0a" * 32
_TINY = digest(b"tiny")
BODIES: Mapping[str, Any] = {
    "make_user": {"name": "newcomer"},
    "change_user": {"is_admin": True},
    "make_token": {"name": "mine"},
    "make_project": {"name": "three"},
    "change_project": {"description": "another"},
    "put_member": {"role": "admin"},
    "make_model": {"name": "n"},
    "change_model": {"description": "another"},
    "change_version": {"description": "another"},
    "put_alias": {"number": 1},
    "stage_version": {"stage": "archived"},
    "decide_approval": {"accept": False},
    "find_missing": {"digests": [_FRESH]},
    "begin_upload": {"digest": _FRESH, "size_bytes": 5},
    "make_endpoint": {"name": "f", "model": "m"},
    "deploy_version": {"version": "1"},
    "promote_version": {"version": "1"},
    "roll_back": {"deployment": 1},
    "make_node": {"name": "newcomer"},
    "change_node": {"labels": {"a": "b"}},
}


def operations(document: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return method and path of every operation of an OpenAPI document, by its id."""
    return {
        told["operationId"]: (method.upper(), path)
        for path, methods in document["paths"].items()
        for method, told in methods.items()
    }


def request(name: str, ids: Mapping[str, str]) -> dict[str, Any]:
    """Return what is sent for an operation to work: JSON, or bytes and headers."""
    if name == "register_version":
        return {"told": {"digest": ids["digest"]}}
    if name == "put_blob":
        return {"content": EXTRA.manifest}
    if name == "put_blobs":
        return {"content": packed({_TINY: b"tiny"})}
    if name == "send_upload":
        return {"content": b"some bytes", "headers": {"Upload-Offset": "0"}}
    return {"told": BODIES[name]} if name in BODIES else {}


def harmless(method: str, name: str) -> dict[str, Any]:
    """Return what is sent for an operation to change nothing, whoever asks."""
    if method in ("GET", "DELETE"):
        return {"headers": {"If-Match": '"999999"'}}
    return (
        {"content": b"something else"}
        if name in ("put_blob", "put_blobs", "send_upload")
        else {"told": {"unheard-of": 1}}
    )
