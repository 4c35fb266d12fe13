"""`tilth engines`: what executes graphs here, and what each engine offers on the chips that are present."""

from rich.table import Table

from tilth import wiring
from tilth.bridge.doctor import EngineFacts, Offer
from tilth.cli.devices import present
from tilth.cli.output import AsJson, emit, table
from tilth.core.build import Precision
from tilth.core.device import Device
from tilth.core.errors import TilthError
from tilth.core.graph import Graph
from tilth.core.record import to_json
from tilth.ports.engine import Engine

#: The smallest graph there is: what an engine refuses for this one it refuses because of the chip.
_EMPTY = Graph(digest="0" * 64, opsets={"ai.onnx": 17}, ops={}, nodes=0, weights_bytes=0)


def command(as_json: AsJson = False) -> None:
    """List the engines, installed or not, and the chips they refuse.

    An engine that is installed still refuses some graphs; `tilth explain` shows those for a bundle.
    """
    devices = present()
    found = [examine(engine, devices) for engine in wiring.engines().values()]
    emit({"engines": [_as_data(facts) for facts in found]}, as_json, lambda: _render(found))


def examine(engine: Engine, devices: list[Device]) -> EngineFacts:
    """Return what an engine says of itself and of every device; an engine that fails to answer is not installed."""
    offers = tuple(_offer(engine, device) for device in devices)
    try:
        return EngineFacts(engine.name, engine.version(), offers)
    except TilthError as error:
        return EngineFacts(engine.name, "", offers, why=f"{error.what}: {error.why}", hint=error.hint)
    except Exception as error:
        # A half-installed vendor library fails with whatever it likes, and the other engines are still fine.
        why = f"{type(error).__name__}: {error}"
        return EngineFacts(engine.name, "", offers, why=why, hint="run `tilth doctor`, then install it again")


def _offer(engine: Engine, device: Device) -> Offer:
    refusals = tuple(engine.refusals(_EMPTY, device))
    options = [] if refusals else engine.options(_EMPTY, device, tuple(Precision))
    precisions = dict.fromkeys(option.precision.value for option in options)
    return Offer(device.id, device.target, tuple(precisions), refusals)


def _as_data(facts: EngineFacts) -> dict[str, object]:
    return {
        "name": facts.name,
        "installed": facts.installed,
        "version": facts.version,
        "why": facts.why,
        "hint": facts.hint,
        "devices": [
            {
                "device": offer.device,
                "target": offer.target,
                "precisions": list(offer.precisions),
                "refusals": to_json(offer.refusals),
            }
            for offer in facts.offers
        ],
    }


def _render(found: list[EngineFacts]) -> Table:
    rows = []
    for facts in found:
        version = facts.version or f"missing: {facts.hint}"
        for offer in facts.offers:
            refused = "; ".join(refusal.reason for refusal in offer.refusals)
            rows.append((facts.name, version, offer.device, ", ".join(offer.precisions) or "-", refused or "-"))
    return table(("engine", "version", "device", "offers", "refuses because"), rows)
