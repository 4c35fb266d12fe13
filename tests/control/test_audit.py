"""The audit log: what is altered, taken out, put in or cut off is found, and no change is without its event."""

import json
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from tilth.control.store import audit
from tilth.control.store.audit import Event
from tilth.control.store.database import Database
from tilth.control.store.tables import chain, events, projects
from tilth.core.errors import UntrustedError


def written(database: Database, count: int = 5) -> list[Event]:
    made = []
    for number in range(count):
        with database.write() as connection:
            event = Event("u1", "model.make", f"models/m{number}", "p1", {"note": "ä \u2028 '", "number": number})
            made += audit.append(connection, event)
    return made


def found(database: Database) -> list[Event]:
    with database.read() as connection:
        return list(audit.walk(connection))


def test_events_come_back_as_they_were_written_and_in_order(database: Database) -> None:
    made = written(database)
    assert found(database) == made and [event.seq for event in made] == [1, 2, 3, 4, 5]
    with database.read() as connection:
        assert audit.check(audit.walk(connection)) == made[-1].hash
        assert audit.end(connection) == (5, made[-1].hash)


@pytest.mark.parametrize(
    ("column", "value"),
    [("actor", "u2"), ("action", "model.read"), ("subject", "models/x"), ("project_id", None), ("at_us", 1)],
)
def test_an_altered_field_is_found(database: Database, column: str, value: Any) -> None:
    written(database)
    with database.write() as connection:
        connection.execute(events.update().where(events.c.seq == 3).values({column: value}))
    with pytest.raises(UntrustedError, match="event 3"):
        audit.check(found(database))


def test_altered_details_are_found(database: Database) -> None:
    written(database)
    with database.write() as connection:
        connection.execute(events.update().where(events.c.seq == 2).values(details={"number": 7}))
    with pytest.raises(UntrustedError, match="event 2"):
        audit.check(found(database))


def test_an_event_that_was_taken_out_is_found(database: Database) -> None:
    written(database)
    with database.write() as connection:
        connection.execute(events.delete().where(events.c.seq == 4))
    with pytest.raises(UntrustedError, match="event 5"):
        audit.check(found(database))


def test_an_end_that_was_cut_off_is_found_by_who_noted_it(database: Database) -> None:
    made = written(database)
    with database.write() as connection:
        connection.execute(events.delete().where(events.c.seq == 5))
        connection.execute(chain.update().values(seq=4, hash=made[3].hash))
    assert audit.check(found(database)) == made[3].hash
    with pytest.raises(UntrustedError, match="does not end"):
        audit.check(found(database), made[4].hash)


def test_a_new_chain_of_other_events_is_found_by_who_noted_the_end(database: Database) -> None:
    made = written(database)
    before, forged = audit.ORIGIN, []
    for event in made:
        other = replace(event, actor="u9")
        forged.append(replace(other, hash=audit._hash(other, before)))
        before = forged[-1].hash
    assert audit.check(forged) == before
    with pytest.raises(UntrustedError, match="does not end"):
        audit.check(forged, made[-1].hash)


def test_a_change_that_fails_leaves_no_event_and_an_event_that_fails_no_change(database: Database) -> None:
    row = {"id": "p1", "name": "p", "created_us": 1, "created_by": "u1"}
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.execute(projects.insert().values(row))
        audit.append(connection, Event("u1", "project.make", "projects/p"))
        connection.execute(projects.insert().values(row))
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(projects)).scalar() == 0
        assert audit.end(connection) == (0, audit.ORIGIN)


def test_an_exported_line_is_checked_without_the_store(database: Database) -> None:
    made = written(database)
    lines = [json.dumps(event.__dict__) for event in made]
    assert audit.check(Event(**json.loads(line)) for line in lines) == made[-1].hash


def test_writers_at_the_same_time_make_one_chain(database: Database) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: written(database, 5), range(8)))
    assert [event.seq for event in found(database)] == list(range(1, 41))
    audit.check(found(database))


def test_what_is_added_while_it_is_checked_is_no_fault(database: Database) -> None:
    written(database)
    with database.read() as connection:
        count, end = audit.end(connection)
        written(database)
        audit.check_all(connection, count, end)


def test_an_end_that_was_set_back_is_found(database: Database) -> None:
    made = written(database)
    with database.write() as connection:
        connection.execute(chain.update().values(seq=3, hash=made[2].hash))
    with database.read() as connection, pytest.raises(UntrustedError, match="event 5 is behind"):
        audit.check_all(connection, *audit.end(connection))


def test_a_log_without_events_is_sound(database: Database) -> None:
    with database.read() as connection:
        audit.check_all(connection, *audit.end(connection))
