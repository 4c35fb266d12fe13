"""`tilth show`: what is in a bundle."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from tilth.bridge.bundle_read import Bundle, open_bundle
from tilth.cli.output import AsJson, emit, human_bytes
from tilth.cli.plain import visible
from tilth.core.bundle import Manifest
from tilth.core.record import to_json


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    graph: Annotated[bool, typer.Option("--graph", help="Count the operators of the graph.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read every byte and check it against its digest.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is in a bundle.

    Raises:
        UntrustedError: what was read is not what its digest says.
    """
    with open_bundle(bundle) as opened:
        if verify:
            opened.verify()
        manifest, digest = opened.manifest, opened.digest
        text = Group(*(Text(visible(line)) for line in _lines(opened, graph, verify)))
    emit({"digest": digest, "verified": verify, "manifest": to_json(manifest)}, as_json, lambda: text)


def _lines(opened: Bundle, graph: bool, verified: bool) -> Iterator[str]:
    manifest = opened.manifest
    facts = manifest.graph
    yield f"{manifest.name}  from {manifest.source.framework} {manifest.source.version}, made {manifest.created_at}"
    yield f"  bundle   {opened.digest}{'  (every byte verified)' if verified else ''}"
    yield f"  graph    {facts.digest}"
    opsets = ", ".join(f"{name} {version}" for name, version in facts.opsets.items())
    yield f"           {facts.nodes} nodes, opset {opsets}, {human_bytes(facts.weights_bytes)} of weights"
    if graph:
        for name, count in sorted(facts.ops.items(), key=lambda item: (-item[1], item[0])):
            yield f"           {count:6} {name}"
    for spec in manifest.signature.inputs:
        yield f"  input    {spec}"
    for spec in manifest.signature.outputs:
        yield f"  output   {spec}"
    yield f"  golden   {len(manifest.golden.cases)} cases, {manifest.golden.origin}; {manifest.notes.get('import', '')}"
    for note in manifest.source.notes:
        yield f"  note     {note}"
    yield from _builds(manifest)
    yield f"  size     {human_bytes(sum(manifest.blobs.values()))} in {len(manifest.blobs)} blobs"


def _builds(manifest: Manifest) -> Iterator[str]:
    labels = {build.id: build.label for build in manifest.builds}
    for choice in manifest.choices:
        yield f"  chosen   {labels[choice.build]} for {choice.target}, {choice.goal} at batch {choice.batch}"
        if choice.busy:
            yield f"           {labels[choice.busy]} side by side while calls wait"
    count = len(manifest.certificates)
    agree = sum(certificate.agrees for certificate in manifest.certificates)
    if count:
        yield f"  builds   {count} certified candidates, {agree} agree, {len(manifest.refused)} refused"
    else:
        yield "  builds   none yet; run `tilth build`"
