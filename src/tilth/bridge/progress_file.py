"""A search's state as JSON, so that an interrupted search goes on where it was."""

from pathlib import Path
from typing import Any

from tilth.bridge.measure.arena import Contender
from tilth.bridge.measure.timing import Samples
from tilth.bridge.search import State
from tilth.bridge.sight import Sight
from tilth.core.build import Build
from tilth.core.bundle import Refused
from tilth.core.errors import InvalidError
from tilth.core.record import from_json, to_json

#: Calls kept of each block, evenly spread in their order; enough for the 99th percentile over all blocks.
_KEPT_CALLS = 200


def state_to_json(state: State) -> dict[str, Any]:
    """Return the state as a JSON value."""
    return {
        "contenders": [_contender_to_json(c) for c in state.contenders.values()],
        "sights": {name: to_json(sight) for name, sight in state.sights.items()},
        "refused": {name: to_json(refused) for name, refused in state.refused.items()},
        "dropped": state.dropped,
        "anchor": state.anchor,
        "rounds_done": state.rounds_done,
        "batches_done": state.batches_done,
    }


def state_from_json(data: Any) -> State:
    """Return the state; one that cannot be read is an empty one, and everything is measured again."""
    if not isinstance(data, dict):
        return State()
    try:
        contenders = [_contender_from_json(item) for item in data["contenders"]]
        return State(
            contenders={c.id: c for c in contenders},
            sights={name: from_json(Sight, item) for name, item in data["sights"].items()},
            refused={name: from_json(Refused, item) for name, item in data["refused"].items()},
            dropped=dict(data["dropped"]),
            anchor=data["anchor"],
            rounds_done=data["rounds_done"],
            batches_done=data["batches_done"],
        )
    except (InvalidError, KeyError, TypeError, AttributeError):
        return State()


def _contender_to_json(contender: Contender) -> dict[str, Any]:
    samples = {
        str(batch): {"blocks": [_thinned(block) for block in s.blocks], "anchors": s.anchors}
        for batch, s in contender.samples.items()
    }
    return {"build": to_json(contender.build), "weights_bytes": contender.weights_bytes, "samples": samples}


def _contender_from_json(item: dict[str, Any]) -> Contender:
    from_disk = Contender(from_json(Build, item["build"]), Path(), item["weights_bytes"])
    for batch, samples in item["samples"].items():
        from_disk.samples[int(batch)] = Samples(samples["blocks"], samples["anchors"])
    return from_disk


def _thinned(block: list[int]) -> list[int]:
    step = max(1, len(block) // _KEPT_CALLS)
    return block[::step]
