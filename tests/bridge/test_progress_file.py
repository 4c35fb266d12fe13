"""A search's state on disk: it comes back whole, or the search starts anew."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tilth.bridge.measure.arena import Contender
from tilth.bridge.measure.timing import Samples, quantile
from tilth.bridge.progress_file import state_from_json, state_to_json
from tilth.bridge.search import State
from tilth.bridge.sight import Sight
from tilth.core.build import Build, Precision, Refusal, Verdict
from tilth.core.bundle import Refused
from tilth.core.certificate import Agreement, Placement, Task

BUILDS = [Build("g", "cpu-x86_64", name, Precision.FP32, settings={"threads": 1}) for name in ("a", "b", "c")]
SIGHT = Sight(
    Agreement(0, 0, 0, 1, 1, 1, 4),
    (),
    Placement("cpu", {"cpu": 3}, 0.0, "test"),
    1.5,
    10,
    20,
    "1.0",
    Task("R2", 1, 1, 4),
)


def state() -> State:
    samples = Samples()
    for _ in range(5):
        samples.add(list(range(1, 1001)), 500.0)
    contenders = {b.id: Contender(b, Path("/model.onnx"), 100) for b in BUILDS}
    contenders[BUILDS[0].id].samples = {1: samples, 8: samples}
    return State(
        contenders=contenders,
        sights={b.id: SIGHT for b in BUILDS[:2]},
        refused={BUILDS[2].id: Refused("c", (Refusal(Verdict.UPSTREAM, "crashed"),), "cpu-x86_64", "last words")},
        dropped={BUILDS[1].id: "too slow"},
        anchor=BUILDS[0].id,
        rounds_done=2,
        batches_done=True,
    )


def saved() -> Any:
    return json.loads(json.dumps(state_to_json(state())))


def test_a_state_comes_back_with_all_that_was_learned() -> None:
    back = state_from_json(saved())
    wanted = state()
    assert back.sights == wanted.sights and back.refused == wanted.refused and back.dropped == wanted.dropped
    assert (back.anchor, back.rounds_done, back.batches_done) == (wanted.anchor, 2, True)
    assert [c.build for c in back.contenders.values()] == BUILDS
    assert back.able == [back.contenders[BUILDS[0].id]]
    assert state_to_json(back) == saved()


def test_thinning_keeps_every_block_and_the_quantiles() -> None:
    wanted = state().contenders[BUILDS[0].id].samples[1]
    found = state_from_json(saved()).contenders[BUILDS[0].id].samples[1]
    assert len(found.blocks) == 5 and len(found.blocks[0]) == 200 and found.anchors == wanted.anchors
    for share in (0.5, 0.95, 0.99):
        assert quantile(found.blocks[0], share) == pytest.approx(quantile(wanted.blocks[0], share), rel=0.01)


def altered(path: str, value: Any) -> Any:
    data = copy.deepcopy(saved())
    place = data
    *way, last = path.split("/")
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[int(last) if isinstance(place, list) else last] = value
    return data


@pytest.mark.parametrize(
    "data",
    [None, [], "x", 3, {}, {"contenders": []}]
    + [
        altered(path, value)
        for path, value in [
            ("contenders", {}),
            ("contenders/0/build", None),
            ("contenders/0/build/precision", "fp8"),
            ("contenders/0/weights_bytes", "many"),
            ("contenders/0/samples", {"one": {"blocks": [[1]], "anchors": [1.0]}}),
            ("contenders/0/samples/1/blocks", [[1]]),
            ("contenders/0/samples/1/blocks", [[1], [], [1], [1], [1]]),
            ("contenders/0/samples/1/blocks/0/0", "fast"),
            ("contenders/0/samples/1/blocks/0/0", -5),
            ("contenders/0/samples/1/anchors/0", 0.0),
            ("contenders/0/samples/1/anchors", []),
            ("sights", []),
            ("sights/nobody", {}),
            (f"sights/{BUILDS[0].id}/agreement", None),
            ("dropped/nobody", "why"),
            ("refused", {"x": "y"}),
            ("anchor", None),
            ("anchor", "nobody"),
            ("rounds_done", "2"),
            ("batches_done", 1),
        ]
    ],
)
def test_a_damaged_state_is_an_empty_one(data: Any) -> None:
    assert state_from_json(data) == State()


def test_a_state_without_its_contenders_is_an_empty_one() -> None:
    data = saved()
    data["contenders"] = data["contenders"][1:]
    assert state_from_json(data) == State()
