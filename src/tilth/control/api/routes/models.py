"""Models, versions, aliases, stages and approvals."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Query

from tilth.bridge.manifest import decode_manifest
from tilth.client.shapes.model import (
    Alias,
    AliasChange,
    Approval,
    Candidate,
    Decision,
    Model,
    ModelChange,
    NewModel,
    NewStage,
    NewVersion,
    Version,
    VersionChange,
)
from tilth.client.shapes.shape import Listing
from tilth.control.api.desk import DEFAULT_LIMIT, Call, Cursor, Desk, Limit
from tilth.control.intake.bundle import candidates
from tilth.control.intake.inspection import Inspected, Inspection, verified
from tilth.control.records import aliases, blobs, models, stages, versions
from tilth.core.errors import MissingError
from tilth.core.record import to_json
from tilth.ports.blob_store import BlobStore

_MODELS = "/v1/projects/{project}/models"
_MODEL = f"{_MODELS}/{{model}}"
_VERSION = f"{_MODEL}/versions/{{version}}"
Prefix = Annotated[str, Query(max_length=64, description="How names begin.")]


def declare(desk: Desk, store: BlobStore, inspection: Inspection) -> None:
    """Declare the routes; bundles are checked by `inspection` before they are registered."""
    _models(desk)
    _versions(desk, inspection)
    _builds(desk, store)
    _aliases(desk)
    _stages(desk)


def _models(desk: Desk) -> None:
    @desk.read(_MODELS, "model.read", summary="List models")
    def list_models(
        call: Call, cursor: Cursor = "", limit: Limit = DEFAULT_LIMIT, prefix: Prefix = ""
    ) -> Listing[Model]:
        return models.listed(call.connection, call.project["id"], cursor, limit, prefix)

    @desk.change("POST", _MODELS, "model.change", summary="Make a model", status=201)
    def make_model(call: Call, body: NewModel) -> Model:
        return models.make(call.change, call.project, body)

    @desk.read(_MODEL, "model.read", summary="Get a model")
    def get_model(call: Call, model: str) -> Model:
        return models.get(call.connection, call.project["id"], model)

    @desk.change("PATCH", _MODEL, "model.change", summary="Change a model")
    def change_model(call: Call, model: str, body: ModelChange) -> Model:
        return models.alter(call.change, call.project, model, body, call.match)

    @desk.change("DELETE", _MODEL, "model.change", summary="Remove a model without versions")
    def remove_model(call: Call, model: str) -> None:
        models.remove(call.change, call.project, model, call.match)


def _versions(desk: Desk, inspection: Inspection) -> None:
    @desk.read(f"{_MODEL}/versions", "model.read", summary="List versions, newest first")
    def list_versions(call: Call, model: str, cursor: Cursor = "", limit: Limit = DEFAULT_LIMIT) -> Listing[Version]:
        return versions.listed(call.connection, _model(call, model), cursor, limit)

    async def inspected(call: Call, model: str, body: NewVersion) -> dict[str, Any]:
        def known(digests: Sequence[str]) -> dict[str, int]:
            with desk.database.read() as connection:
                return blobs.sizes(connection, call.project["id"], digests)

        def check_model() -> None:
            with desk.database.read() as connection:
                models.found(connection, call.project["id"], model)

        await asyncio.to_thread(check_model)
        return {"inspected": await inspection.check(body.digest, known)}

    @desk.change(
        "POST", f"{_MODEL}/versions", "version.push", summary="Register a bundle", status=201, prepare=inspected
    )
    def register_version(call: Call, model: str, body: NewVersion, *, inspected: Inspected) -> Version:
        row = _model(call, model)
        # A sweep may have come between: what is noted in this transaction no sweep takes.
        have = blobs.sizes(call.connection, call.project["id"], inspected.sizes)
        gone = sorted(inspected.sizes.keys() - have.keys())
        if gone:
            raise MissingError(f"blob {gone[0][:12]} went away meanwhile", hint="push the bundle again")
        return versions.register(call.change, call.project, row, body, inspected.summary, inspected.sizes)

    @desk.read(_VERSION, "model.read", summary="Get a version by number, alias or `latest`")
    def get_version(call: Call, model: str, version: str) -> Version:
        return versions.get(call.connection, _model(call, model), version)

    @desk.change("PATCH", _VERSION, "version.change", summary="Change what is said of a version")
    def change_version(call: Call, model: str, version: str, body: VersionChange) -> Version:
        return versions.alter(call.change, call.project, _model(call, model), version, body, call.match)

    @desk.change("DELETE", _VERSION, "version.change", summary="Remove a version")
    def remove_version(call: Call, model: str, version: str) -> None:
        versions.remove(call.change, call.project, _model(call, model), version, call.match)


def _builds(desk: Desk, store: BlobStore) -> None:
    @desk.read(f"{_VERSION}/builds", "model.read", summary="List builds with their certificates, and what was refused")
    def list_builds(call: Call, model: str, version: str) -> Listing[Candidate]:
        row = versions.found(call.connection, _model(call, model), version)
        found = candidates(decode_manifest(verified(store, row["digest"])))
        return Listing[Candidate](items=[Candidate(**to_json(one)) for one in found])

    @desk.read(f"{_VERSION}/builds/{{build}}", "model.read", summary="Get a build with its certificate")
    def get_build(call: Call, model: str, version: str, build: str) -> Candidate:
        row = versions.found(call.connection, _model(call, model), version)
        for one in candidates(decode_manifest(verified(store, row["digest"]))):
            if one["build"] == build:
                return Candidate(**to_json(one))
        raise MissingError(f"version {row['number']} has no such build", hint="list its builds")


def _aliases(desk: Desk) -> None:
    @desk.read(f"{_MODEL}/aliases", "model.read", summary="List aliases")
    def list_aliases(call: Call, model: str, cursor: Cursor = "", limit: Limit = DEFAULT_LIMIT) -> Listing[Alias]:
        return aliases.listed(call.connection, _model(call, model), cursor, limit)

    @desk.read(f"{_MODEL}/aliases/{{alias}}", "model.read", summary="Get an alias")
    def get_alias(call: Call, model: str, alias: str) -> Alias:
        return aliases.get(call.connection, _model(call, model), alias)

    @desk.change("PUT", f"{_MODEL}/aliases/{{alias}}", "version.change", summary="Let an alias name a version")
    def put_alias(call: Call, model: str, alias: str, body: AliasChange) -> Alias:
        return aliases.put(call.change, call.project, _model(call, model), alias, body.number, call.match)

    @desk.change("DELETE", f"{_MODEL}/aliases/{{alias}}", "version.change", summary="Remove an alias")
    def remove_alias(call: Call, model: str, alias: str) -> None:
        aliases.remove(call.change, call.project, _model(call, model), alias, call.match)


def _stages(desk: Desk) -> None:
    @desk.change(
        "POST",
        f"{_VERSION}/stage",
        "version.stage",
        summary="Put a version into a stage, or ask for it",
        status=201,
        match=True,
    )
    def stage_version(call: Call, model: str, version: str, body: NewStage) -> Approval:
        return stages.ask(call.change, call.project, _model(call, model), version, body, call.match)

    @desk.read("/v1/projects/{project}/approvals", "model.read", summary="List versions on their way into stages")
    def list_approvals(
        call: Call,
        cursor: Cursor = "",
        limit: Limit = DEFAULT_LIMIT,
        state: Literal["", "waiting", "accepted", "rejected"] = "",
        model: Prefix = "",
    ) -> Listing[Approval]:
        return stages.listed(call.connection, call.project["id"], cursor, limit, state, model)

    @desk.read("/v1/projects/{project}/approvals/{approval}", "model.read", summary="Get an approval")
    def get_approval(call: Call, approval: str) -> Approval:
        return stages.get(call.connection, call.project["id"], approval)

    @desk.change(
        "POST", "/v1/projects/{project}/approvals/{approval}", "version.stage", summary="Accept or reject a version"
    )
    def decide_approval(call: Call, approval: str, body: Decision) -> Approval:
        return stages.decide(call.change, call.project, approval, body, call.match)


def _model(call: Call, name: str) -> Any:
    return models.found(call.connection, call.project["id"], name)
