"""The cache: it may be damaged, full or forbidden, and never matters for what is right."""

import os
from pathlib import Path

import pytest

from tilth.bridge.cache import Cache, cache_folder, key
from tilth.core.digest import digest

DATA = b"weights" * 100
NAME = digest(DATA)


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": 1} x'])
def test_a_damaged_record_counts_as_absent_and_heals(tmp_path: Path, damage: bytes) -> None:
    cache = Cache(tmp_path)
    cache.put("search-1", {"a": 1})
    assert cache.get("search-1") == {"a": 1}
    next(tmp_path.rglob("search-1.json")).write_bytes(damage)
    assert cache.get("search-1") is None
    cache.put("search-1", {"a": 2})
    assert Cache(tmp_path).get("search-1") == {"a": 2}


def test_a_damaged_blob_counts_as_absent_and_heals(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.blob(NAME) is None
    cache.put_blob(NAME, DATA)
    assert cache.blob(NAME) == DATA
    (tmp_path / "blobs" / NAME).write_bytes(DATA[:-1] + b"x")
    assert cache.blob(NAME) is None
    cache.put_blob(NAME, DATA)
    assert cache.blob(NAME) == DATA


def test_a_name_that_leads_elsewhere_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    assert Cache(tmp_path / "cache").blob("../../secret") is None


@pytest.mark.parametrize("kind", ["a file is in the way", "a name is too long", "there is no such device"])
def test_a_folder_that_cannot_be_written_is_harmless(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    places = {
        "a file is in the way": tmp_path / "file",
        "a name is too long": tmp_path / ("x" * 300),
        "there is no such device": Path("/dev/null/tilth"),
    }
    cache = Cache(places[kind])
    cache.put("search-1", {})
    cache.put_blob(NAME, DATA)
    assert cache.get("search-1") is None and cache.blob(NAME) is None
    cache.clear()


def test_a_full_disk_leaves_no_pieces(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (tmp_path / "search" / "search-1.json").mkdir(parents=True)  # what is there cannot be replaced by a file
    cache.put("search-1", {"a": 1})
    assert [path.name for path in (tmp_path / "search").iterdir()] == ["search-1.json"]


def test_a_fresh_cache_knows_what_it_put_and_nothing_older(tmp_path: Path) -> None:
    Cache(tmp_path).put("old", 1)
    fresh = Cache(tmp_path, fresh=True)
    assert fresh.get("old") is None
    fresh.put("new", 2)
    assert fresh.get("new") == 2 and Cache(tmp_path).get("new") == 2


def test_clearing_removes_records_and_blobs_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    cache = Cache(tmp_path)
    cache.put("a", 1)
    cache.put_blob(NAME, DATA)
    cache.clear()
    assert cache.get("a") is None and cache.blob(NAME) is None
    assert [path.name for path in tmp_path.iterdir()] == ["zoo"]


def test_others_cannot_look_into_the_cache(tmp_path: Path) -> None:
    Cache(tmp_path / "c").put("a", 1)
    assert (tmp_path / "c" / "search").stat().st_mode & 0o077 == 0


def test_the_folder_is_the_one_that_was_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TILTH_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("TILTH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tilth"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "tilth" and os.environ["HOME"]


def test_a_key_tells_facts_apart_whatever_their_order() -> None:
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1}) != key({"a": 1, "b": "2"})
