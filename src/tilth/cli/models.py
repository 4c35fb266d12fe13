"""`tilth models`: models, their versions, and the aliases and stages of those."""

from typing import Annotated

import typer

from tilth.cli.output import AsJson, emit, human_bytes
from tilth.cli.remote import MANY, InProject, Limit, moment, parsed_tags, plain, print_list, say, some
from tilth.client.client import Client
from tilth.client.reference import parse_reference
from tilth.client.shapes.model import Model, Stage, Version

Texts = list[str] | None
OneModel = Annotated[str, typer.Argument(metavar="model", help="The model.")]
OneVersion = Annotated[str, typer.Argument(metavar="model", help="MODEL:VERSION; a number, an alias or `latest`.")]
Note = Annotated[str, typer.Option("--note", help="Why, for the history.")]
Tags = Annotated[Texts, typer.Option("--tag", "-t", help="NAME=VALUE; replaces all tags.")]
Describe = Annotated[str | None, typer.Option("--description", help="What it is, for people.")]
Approve = Annotated[
    list[str] | None, typer.Option("--approve", help="A stage that a second person has to let a version into.")
]
Gate = Annotated[list[str] | None, typer.Option("--deploy", help="A stage that a version must be in to be deployed.")]


def command(
    ctx: typer.Context,
    prefix: Annotated[str, typer.Option("--prefix", help="Only names that begin so.")] = "",
    limit: Limit = MANY,
    project: InProject = "",
    as_json: AsJson = False,
) -> None:
    """List models; show, change or remove one, its aliases and stages.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    if ctx.invoked_subcommand:
        return
    with Client.logged_in(project) as client:
        found = some(client.models.list(prefix=prefix), limit)
    columns = {
        "model": lambda one: one.name,
        "newest": lambda one: one.newest or "",
        "aliases": lambda one: ", ".join(f"{name} {number}" for name, number in one.aliases.items()),
        "tags": lambda one: _pairs(one.tags),
        "made (UTC)": lambda one: moment(one.created_at),
    }
    print_list(found, as_json, columns, right=["newest"], none="no model yet; `tilth push BUNDLE` makes one")


def show(
    model: Annotated[str, typer.Argument(help="MODEL, or MODEL:VERSION for one of its versions.")],
    limit: Limit = 20,
    project: InProject = "",
    as_json: AsJson = False,
) -> None:
    """Show a model with its newest versions, or one version with its builds.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    named = parse_reference(model)
    with Client.logged_in(project) as client:
        if named.version:
            version, builds = client.versions.get(named.model, named.version), client.versions.builds(*_pair(model))
            told = {"version": plain(version), "builds": [plain(one) for one in builds]}
            lines = [*_version(version), *(f"  {one.target}  {one.label}  {_verdict(one)}" for one in builds)]
        else:
            found = client.models.get(named.model)
            newest = some(client.versions.list(named.model), limit)
            told = {"model": plain(found), "versions": [plain(one) for one in newest]}
            lines = [*_model(found), *(_line(one) for one in newest)]
    emit(told, as_json, lambda: "\n".join(lines))


def add(
    model: OneModel,
    description: Describe = None,
    tag: Tags = None,
    approve: Approve = None,
    deploy: Gate = None,
    project: InProject = "",
    as_json: AsJson = False,
) -> None:
    """Make a model without versions.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    parse_reference(model, version=False)
    with Client.logged_in(project) as client:
        made = client.models.make(
            model,
            description=description or "",
            tags=parsed_tags(tag) or {},
            approve=_gates(approve) or (),
            deploy=_gates(deploy) or (),
        )
    say(made, as_json, f"model `{made.name}` is there")


def change(
    model: Annotated[str, typer.Argument(help="MODEL, or MODEL:VERSION for one of its versions.")],
    description: Describe = None,
    tag: Tags = None,
    approve: Approve = None,
    deploy: Gate = None,
    project: InProject = "",
    as_json: AsJson = False,
) -> None:
    """Change what is said of a model or a version; the stages are a model's, `none` for no gate.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    named = parse_reference(model)
    if named.version and (approve or deploy):
        raise typer.BadParameter("--approve and --deploy are for a model, not for one of its versions")
    with Client.logged_in(project) as client:
        made: Model | Version
        if named.version:
            made = client.versions.change(*_pair(model), description=description, tags=parsed_tags(tag))
        else:
            made = client.models.change(
                model,
                description=description,
                tags=parsed_tags(tag),
                approve=_gates(approve),
                deploy=_gates(deploy),
            )
    say(made, as_json, f"`{named}` is changed")


def remove(
    model: Annotated[str, typer.Argument(help="MODEL without versions, or MODEL:NUMBER that no endpoint serves.")],
    project: InProject = "",
    as_json: AsJson = False,
) -> None:
    """Remove a version, or a model that has none.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    named = parse_reference(model)
    with Client.logged_in(project) as client:
        if named.version:
            client.versions.remove(*_pair(model))
        else:
            client.models.remove(model)
    say({"removed": str(named)}, as_json, f"`{named}` is removed")


def alias(
    model: Annotated[str, typer.Argument(help="MODEL:VERSION; or MODEL with --remove.")],
    name: Annotated[str, typer.Argument(help="The alias, such as champion.")],
    gone: Annotated[bool, typer.Option("--remove", help="Remove the alias; the version stays.")] = False,
    project: InProject = "",
    as_json: AsJson = False,
) -> None:
    """Let an alias name a version, or remove it.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    named = parse_reference(model, version=not gone)
    with Client.logged_in(project) as client:
        if gone:
            client.aliases.remove(model, name)
            say({"removed": name}, as_json, f"alias `{name}` of `{model}` is removed")
            return
        number = client.versions.get(*_pair(model)).number
        made = client.aliases.put(named.model, name, number)
    say(made, as_json, f"{named.model}:{name} is {named.model}:{made.number}")


def stage(
    model: OneVersion,
    to: Annotated[str, typer.Argument(metavar="stage", help="none, staging, production or archived.")],
    note: Note = "",
    project: InProject = "",
    as_json: AsJson = False,
) -> None:
    """Put a version into a stage, or ask for it where a second person has to agree.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    parse_reference(model, version=True)
    wanted = _stages([to]) or []
    with Client.logged_in(project) as client:
        made = client.versions.stage(*_pair(model), wanted[0], note=note)
    waits = f"waits for a second person: tilth approvals accept {made.id}"
    say(
        made,
        as_json,
        f"{made.model}:{made.number} {'is in' if made.state == 'accepted' else 'to'} {made.stage} "
        f"{'' if made.state == 'accepted' else waits}".rstrip(),
    )


COMMANDS = {"show": show, "add": add, "change": change, "remove": remove, "alias": alias, "stage": stage}


def _pair(model: str) -> tuple[str, str]:
    named = parse_reference(model, version=True)
    return named.model, named.version


def _stages(given: list[str] | None) -> list[Stage] | None:
    known: dict[str, Stage] = {"none": "none", "staging": "staging", "production": "production", "archived": "archived"}
    for one in given or ():
        if one not in known:
            raise typer.BadParameter(f"`{one}` is not a stage; stages are {', '.join(known)}")
    return None if given is None else [known[one] for one in given]


def _gates(given: list[str] | None) -> list[Stage] | None:
    found = _stages(given)
    return None if found is None else [one for one in found if one != "none"]


def _pairs(tags: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in tags.items())


def _model(one: Model) -> list[str]:
    gates = [*(f"{stage} needs a second person" for stage in one.approve)]
    if one.deploy:
        gates.append(f"deployed from {' or '.join(one.deploy)} alone")
    aliases = ", ".join(f"{name} is {number}" for name, number in one.aliases.items())
    return [part for part in (f"{one.name}  {one.description}".rstrip(), _pairs(one.tags), aliases, *gates) if part]


def _line(one: Version) -> str:
    names = f"  {', '.join(one.aliases)}" if one.aliases else ""
    stage = f"  {one.stage}" if one.stage != "none" else ""
    size = human_bytes(one.size_bytes)
    return f"  {one.number:>4}  {one.digest[:12]}  {moment(one.created_at)}  {one.created_by}  {size}{stage}{names}"


def _version(one: Version) -> list[str]:
    lineage = [
        f"  from {name} {', '.join(value) if isinstance(value, list) else value}"
        for name, value in one.lineage.model_dump().items()
        if value
    ]
    tags = [f"  {_pairs(one.tags)}"] if one.tags else []
    return [f"{one.model}:{one.number}  {one.description}".rstrip(), _line(one), *lineage, *tags]


def _verdict(one: object) -> str:
    chosen, reason = getattr(one, "chosen", []), getattr(one, "reason", "")
    return f"chosen for {', '.join(chosen)}" if chosen else reason
