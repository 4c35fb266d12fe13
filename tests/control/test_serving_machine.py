"""What follows for one endpoint: a deployment that fails takes nothing away, and one that is good is reached."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.control.serving.machine import (
    Action,
    Done,
    Down,
    Event,
    Failed,
    Load,
    Look,
    Removed,
    Round,
    Seen,
    Shelve,
    State,
    Unload,
    Unshelve,
    Up,
    Want,
    report,
    step,
)
from tilth.control.traffic import Shares, promoted


def digest(version: str) -> str:
    return f"digest of {version}"


def want(number: int, shares: Shares) -> Want:
    return Want(number, shares, {one: digest(one) for one in shares.versions})


def after(state: State, *events: Event) -> tuple[State, list[Action]]:
    """Return the state after events, and all that was to be done."""
    done: list[Action] = []
    for event in events:
        state, actions = step(state, event)
        done += actions
    return state, done


def serving(shares: Shares, number: int = 1) -> State:
    """Return the state of an endpoint that serves what is wanted."""
    state, _ = after(State(up=True), want(number, shares))
    while state.task is not None:
        state, _ = step(state, Done())
    assert state.applied == shares and state.applied_number == number
    return state


# -- any sequence of events


class Outside:
    """What the machine drives: a shelf, a server that may take a part of what it is told, and one thing under way."""

    def __init__(self) -> None:
        self.state, self.number, self.doing = State(), 0, None  # type: Action | None
        self.shelf: dict[str, str] = {}
        #: What the server has, by what is known of it from outside; None when it does not run.
        self.server: Shares | None = None
        self.held = False

    def tell(self, event: Event) -> None:
        before = self.state
        self.state, actions = step(before, event)
        begun = [one for one in actions if not isinstance(one, Unshelve)]
        assert len(begun) <= 1 and (not begun or self.doing is None), "two things are under way"
        assert not (self.held and begun), "what gave out is tried again at once"
        for action in actions:
            if isinstance(action, Unshelve):
                assert not {*action.versions} & {*self.state.applied.versions}, "what answers was taken off the shelf"
                if self.server is not None:
                    assert not {*action.versions} & {*self.server.versions}, "the server lost a bundle that it has"
                for one in action.versions:
                    del self.shelf[one]
            else:
                self.doing = action
            if isinstance(action, Load):
                assert {*action.shares.versions} <= {*self.shelf}, "the server is to load what is not there"
        if not isinstance(event, Done):
            assert self.state.applied in (before.applied, Shares()), "what was not done counts as applied"
        assert dict(self.state.shelf) == self.shelf

    def want(self, shares: Shares) -> None:
        self.number += 1
        self.tell(want(self.number, shares))

    def answer(self, how: str) -> None:
        """End what is under way: `done`, `bad`, or `again` with or without its effect."""
        doing, self.doing = self.doing, None
        if doing is None:
            return
        took = how in ("done", "again, and done")
        if isinstance(doing, Shelve) and took:
            self.shelf[doing.version] = doing.digest
        if self.server is not None and took:
            self.server = doing.shares if isinstance(doing, Load) else self.server
            self.server = Shares() if isinstance(doing, Unload) else self.server
        if how == "done" and self.server is None and not isinstance(doing, Shelve):
            how = "again"
        if isinstance(doing, Shelve) and how == "again, and done":
            # A bundle is there whole or not at all, and whether it is there is known.
            how = "done"
        self.held = how.startswith("again")
        self.tell(Done() if how == "done" else Failed(how, again=self.held))

    def up(self) -> None:
        if self.server is None:
            self.server = self.state.applied
            self.tell(Up(anew=True))

    def down(self) -> None:
        self.server = None
        self.tell(Down())

    def round(self) -> None:
        self.held = False
        self.tell(Round())

    def settle(self) -> None:
        """Let everything work from here on, and see that it comes to rest."""
        self.up()
        for _ in range(60):
            self.round()
            if self.doing is None:
                return
            self.answer("done")
        raise AssertionError("it does not come to rest")


SHARES = st.sampled_from(
    [promoted("1"), promoted("2"), Shares({"1": 90.0, "2": 10.0}), Shares({"2": 100.0}, {"3": 5.0}), promoted("4")]
)
ANSWERS = st.sampled_from(["done", "done", "bad", "again", "again, and done"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), SHARES),
        st.tuples(st.just("answer"), ANSWERS),
        st.tuples(st.just("answer"), ANSWERS),
        st.tuples(st.sampled_from(["up", "down", "round"])),
    ),
    max_size=40,
)


def played(steps: list[tuple[Any, ...]]) -> Outside:
    outside = Outside()
    for name, *more in steps:
        getattr(outside, name)(*more)
    return outside


@settings(max_examples=200)
@given(STEPS, SHARES)
def test_whatever_happened_a_good_deployment_is_reached(steps: list[tuple[Any, ...]], last: Shares) -> None:
    outside = played(steps)
    outside.want(last)
    outside.settle()
    assert outside.state.applied == outside.server == last and outside.state.applied_number == outside.number
    assert {*outside.shelf} == {*last.versions}


@settings(max_examples=200)
@given(STEPS)
def test_whatever_happened_the_server_ends_with_what_is_said_to_answer(steps: list[tuple[Any, ...]]) -> None:
    outside = played(steps)
    outside.settle()
    state = outside.state
    assert outside.server == state.applied
    assert state.failed == state.number or state.applied_number == state.number
    assert {*outside.shelf} >= {*state.applied.versions}


@settings(max_examples=200)
@given(STEPS, st.booleans())
def test_whatever_happened_a_removed_endpoint_leaves_nothing(steps: list[tuple[Any, ...]], down: bool) -> None:
    outside = played(steps)
    outside.tell(Removed())
    if down:
        outside.down()
        outside.answer("again")
        outside.round()
    else:
        outside.settle()
    assert not outside.shelf and outside.state.applied == Shares() and outside.doing is None
    assert not outside.state.needs_server and outside.server in (None, Shares())


@given(STEPS)
def test_every_state_can_be_told_of(steps: list[tuple[Any, ...]]) -> None:
    told = report(played(steps).state)
    assert told.state in ("empty", "deploying", "ready", "degraded", "failed", "stopped")
    assert told.message or told.state == "ready"


# -- what the sequences do not name


def test_a_version_that_is_wanted_while_another_is_shelved_is_not_taken_for_that_one() -> None:
    state, _ = after(State(up=True), want(1, promoted("1")), want(2, promoted("2")))
    state, done = after(state, Done())
    assert state.shelf == {"1": digest("1")} and done == [Shelve("2", digest("2"))]


def test_a_removal_while_something_is_shelved_is_no_crash() -> None:
    state, done = after(State(up=True), want(1, promoted("1")), Removed(), Done())
    assert done == [Shelve("1", digest("1")), Unshelve(("1",))] and state.shelf == {}


def test_a_deployment_that_comes_while_another_is_loaded_is_not_taken_for_loaded() -> None:
    state, _ = after(State(up=True), want(1, promoted("1")), Done(), want(2, Shares({"1": 50.0, "2": 50.0})), Done())
    assert state.applied == promoted("1") and state.applied_number == 1 and state.task == Shelve("2", digest("2"))


def test_a_deployment_is_not_at_fault_for_the_one_before_it() -> None:
    state, _ = after(State(up=True), want(1, promoted("1")), Done(), want(2, promoted("2")), Failed("1 is bad"))
    assert state.failed == 0 and state.why == "" and state.task == Shelve("2", digest("2"))


def test_a_server_that_was_started_while_it_was_told_is_told_again() -> None:
    state, _ = after(State(up=True), want(1, promoted("1")), Done())
    state, done = after(state, Down(), Up(anew=True), Done())
    assert done == [Load(promoted("1"))] and not state.anew


def test_what_an_earlier_process_applied_goes_on_until_it_is_known_what_is_wanted() -> None:
    recalled = State(applied=promoted("1"), applied_number=3, shelf={"1": digest("1")})
    state, done = after(recalled, Up(anew=False), Round(), Look({"1": Seen("ready")}), want(3, promoted("1")))
    assert done == [] and report(state).state == "ready"


def test_a_deployment_that_fails_brings_back_what_answered() -> None:
    state, done = after(serving(promoted("1")), want(2, promoted("2")), Done(), Failed("it does not load"))
    assert done == [Shelve("2", digest("2")), Load(promoted("2")), Load(promoted("1"))]
    state, done = after(state, Done())
    assert done == [Unshelve(("2",))] and state.applied == promoted("1")
    told = report(state)
    assert told.state == "failed" and "it does not load" in told.message and "deployment 1 goes on" in told.message


def test_a_bundle_that_cannot_be_shelved_fails_its_deployment_and_nothing_else() -> None:
    state, done = after(serving(promoted("1")), want(2, promoted("2")), Failed("damaged"), Round())
    assert done == [Shelve("2", digest("2"))] and state.applied == promoted("1")
    assert "damaged" in report(state).message


def test_going_back_that_fails_is_said_and_tried_again_a_round_later() -> None:
    state, _ = after(serving(promoted("1")), want(2, promoted("2")), Done(), Failed("bad"))
    state, done = after(state, Failed("no memory"))
    assert done == [] and "going back to deployment 1 fails: no memory" in report(state).message
    state, done = after(state, Round(), Done())
    assert done[:1] == [Load(promoted("1"))] and "deployment 1 goes on" in report(state).message


def test_a_full_disk_is_waited_for_and_said() -> None:
    state, done = after(serving(promoted("1")), want(2, promoted("2")), Failed("the disk is full", again=True))
    assert report(state).state == "deploying" and report(state).message == "the disk is full"
    assert len(done) == 1 and after(state, Look({}), Up(anew=False), Down())[1] == []
    state, done = after(state, Round(), Done(), Done())
    assert state.applied == promoted("2") and state.why == ""


def test_a_version_that_is_not_there_fails_its_deployment() -> None:
    state, done = after(serving(promoted("1")), Want(2, promoted("2"), {}))
    assert done == [] and report(state).state == "failed" and "version 2 is not there" in report(state).message


def test_a_server_that_does_not_unload_is_asked_again_a_round_later() -> None:
    state, done = after(serving(promoted("1")), Removed(), Failed("busy"))
    assert done == [Unload()]
    state, done = after(state, Round(), Done())
    assert done == [Unload(), Unshelve(("1",))] and state.applied == Shares()


def test_a_removed_endpoint_wants_nothing_more() -> None:
    state, done = after(State(up=True), Removed(), want(1, promoted("1")))
    assert done == [] and state.wanted == Shares()


def test_an_answer_to_nothing_changes_nothing() -> None:
    state = serving(promoted("1"))
    assert step(state, Done()) == (state, [])
    assert step(state, Failed("late")) == (state, [])


# -- what is told


@pytest.mark.parametrize(
    ("seen", "state", "message"),
    [
        ({"1": Seen("ready"), "2": Seen("ready")}, "ready", ""),
        ({"1": Seen("ready"), "2": Seen("unavailable", "out of memory")}, "degraded", "out of memory"),
        ({"1": Seen("ready")}, "degraded", "the server does not know it"),
        ({"1": Seen("loading"), "2": Seen("unavailable")}, "failed", "version 2 is unavailable"),
    ],
)
def test_what_does_not_answer_is_told(seen: dict[str, Seen], state: str, message: str) -> None:
    told = report(after(serving(Shares({"1": 50.0, "2": 50.0})), Look(seen))[0])
    assert told.state == state and message in told.message and told.versions.keys() == {"1", "2"}


def test_an_endpoint_without_a_server_or_a_deployment_is_told() -> None:
    assert report(State()).state == "empty"
    down = after(serving(promoted("1")), Down())[0]
    assert report(down).state == "stopped" and report(down).versions["1"]["state"] == "loading"
    assert report(replace(down, why="no port")).message == "no port"
    assert report(after(State(up=True), want(1, promoted("1")))[0]).message == "deployment 1 is on its way"


def test_a_look_from_before_does_not_say_that_what_was_loaded_is_not_there() -> None:
    shares = Shares({"1": 100.0}, {})
    state, _ = step(State(up=True, shelf={"1": "d"}), Want(1, shares, {"1": "d"}))
    assert state.phase == "loading"
    state, _ = step(state, Look({"1": Seen("unavailable", "not wanted")}))
    state, _ = step(state, Done())
    assert report(state).state == "ready"
