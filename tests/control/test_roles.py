"""Who may do what: no role, no token and no other project's role does more than it says."""

import itertools

import pytest

from tilth.client.errors import ForbiddenError
from tilth.control.access import ANYWHERE, EVERYWHERE, IN_PROJECT, OWN, ROLES, Principal, Role, check
from tilth.core.errors import MissingError, RefusedError

BOSS = Principal("u0", "boss", is_admin=True)


def person(role: Role | None = None, **more: object) -> Principal:
    return Principal("u1", "ann", roles={"p1": role} if role else {}, **more)  # type: ignore[arg-type]


def may(principal: Principal, action: str, project: str | None = "p1") -> bool:
    try:
        check(principal, action, project)
    except RefusedError:
        return False
    except MissingError:
        return False
    return True


@pytest.mark.parametrize("action", sorted(IN_PROJECT))
def test_a_role_does_what_it_is_for_and_nothing_of_the_roles_above(action: str) -> None:
    least = ROLES.index(IN_PROJECT[action])
    for index, role in enumerate(ROLES):
        assert may(person(role), action) is (index >= least)
    assert may(BOSS, action)


@pytest.mark.parametrize("action", sorted(IN_PROJECT))
def test_a_role_in_one_project_is_none_in_another(action: str) -> None:
    for role in ROLES:
        with pytest.raises(MissingError):
            check(person(role), action, "p2")
    with pytest.raises(MissingError):
        check(person(), action, "p1")
    with pytest.raises(MissingError):
        check(BOSS, action, None)


@pytest.mark.parametrize("action", sorted(EVERYWHERE))
def test_what_is_for_administrators_is_for_no_role(action: str) -> None:
    assert may(BOSS, action, None)
    for role in ROLES:
        assert not may(person(role), action) and not may(person(role), action, None)


@pytest.mark.parametrize(("own", "most"), list(itertools.product(ROLES, ROLES)))
def test_a_token_narrows_and_never_widens(own: Role, most: Role) -> None:
    for action in IN_PROJECT:
        assert may(person(own, most=most), action) is (may(person(own), action) and may(person(most), action))


def test_a_token_of_an_administrator_for_one_project_is_no_administrator() -> None:
    narrow = Principal("u0", "boss", is_admin=True, project_id="p1", most="viewer")
    assert may(narrow, "model.read") and not may(narrow, "model.change") and not may(narrow, "model.read", "p2")
    assert not any(may(narrow, action, None) for action in EVERYWHERE)


def test_an_action_that_nobody_listed_is_a_fault_and_not_allowed() -> None:
    with pytest.raises(KeyError):
        check(BOSS, "model.destroy", "p1")


def test_no_action_is_listed_twice() -> None:
    assert len({*ANYWHERE, *EVERYWHERE, *IN_PROJECT, *OWN}) == sum(map(len, (ANYWHERE, EVERYWHERE, IN_PROJECT, OWN)))


def test_a_refusal_says_what_is_needed_and_by_whom() -> None:
    with pytest.raises(ForbiddenError) as caught:
        check(person("viewer"), "model.change", "p1")
    assert "developer" in caught.value.why and "viewer" in caught.value.why
