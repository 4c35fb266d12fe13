"""A search's state as JSON, so that an interrupted search goes on where it was."""

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Samples:
    blocks: tuple[tuple[int, ...], ...]
    anchors: tuple[float, ...]
    clear: tuple[bool, ...]


@dataclass(frozen=True)
class _Contender:
    build: Build
    weights_bytes: int
    samples: Mapping[str, _Samples]


@dataclass(frozen=True)
class _State:
    contenders: tuple[_Contender, ...]
    sights: Mapping[str, Sight]
    refused: Mapping[str, Refused]
    dropped: Mapping[str, str]
    anchor: str
    main_batch: int
    rounds_done: int
    batches_done: bool


def state_to_json(state: State) -> dict[str, Any]:
    """Return the state as a JSON value."""
    saved = _State(
        contenders=tuple(map(_saved, state.contenders.values())),
        sights=state.sights,
        refused=state.refused,
        dropped=state.dropped,
        anchor=state.anchor,
        main_batch=state.main_batch,
        rounds_done=state.rounds_done,
        batches_done=state.batches_done,
    )
    made: dict[str, Any] = to_json(saved)
    return made


def state_from_json(data: Any) -> State:
    """Return the state; one that cannot be read is an empty one, and everything is measured again."""
    try:
        saved = from_json(_State, data)
        state = State(
            contenders={c.id: c for c in map(_restored, saved.contenders)},
            sights=dict(saved.sights),
            refused=dict(saved.refused),
            dropped=dict(saved.dropped),
            anchor=saved.anchor,
            main_batch=saved.main_batch,
            rounds_done=saved.rounds_done,
            batches_done=saved.batches_done,
        )
    except (InvalidError, ValueError):
        return State()
    return state if _is_sound(state) else State()


def _saved(contender: Contender) -> _Contender:
    samples = {
        str(batch): _Samples(tuple(map(_thinned, one.blocks)), tuple(one.anchors), tuple(one.clear))
        for batch, one in contender.samples.items()
    }
    return _Contender(contender.build, contender.weights_bytes, samples)


def _restored(saved: _Contender) -> Contender:
    made = Contender(saved.build, Path(), saved.weights_bytes)
    for batch, one in saved.samples.items():
        made.samples[int(batch)] = Samples(list(map(list, one.blocks)), list(one.anchors), list(one.clear))
    return made


def _is_sound(state: State) -> bool:
    named = {*state.sights, *state.dropped, *([state.anchor] if state.anchor else [])}
    samples = [one for contender in state.contenders.values() for one in contender.samples.values()]
    return named <= set(state.contenders) and all(map(_is_measured, samples))


def _is_measured(samples: Samples) -> bool:
    return (
        0 < len(samples.blocks) == len(samples.anchors) == len(samples.clear)
        and all(block and min(block) > 0 for block in samples.blocks)
        and min(samples.anchors) > 0
    )


def _thinned(block: list[int]) -> tuple[int, ...]:
    step = max(1, len(block) // _KEPT_CALLS)
    return tuple(block[::step])
