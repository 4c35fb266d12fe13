"""`tilth devices`, `tilth engines` and `tilth doctor` on the machine that runs the tests."""

import json

import pytest

from tilth.cli.engines import examine
from tilth.cli.main import main
from tilth.cli.output import console, human_bytes, table
from tilth.core.device import Device
from tilth.core.errors import MissingError

CPU = Device(id="cpu:0", target="cpu-x86_64", name="a CPU", cores=2, isa=("avx512_vnni",))


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main([*arguments, "--json"]) in (0, 6)
    return json.loads(capsys.readouterr().out)


def test_the_cpu_is_found_and_the_null_device_is_not(capsys, monkeypatch) -> None:
    monkeypatch.delenv("TILTH_NULL_DEVICE", raising=False)
    devices = said(capsys, "devices")["devices"]
    assert [device["id"] for device in devices] == ["cpu:0"]
    assert devices[0]["target"].startswith("cpu-")
    assert devices[0]["cores"] >= 1


def test_the_null_device_is_listed_where_it_is_asked_for(capsys, monkeypatch) -> None:
    monkeypatch.setenv("TILTH_NULL_DEVICE", "1")
    devices = said(capsys, "devices")["devices"]
    assert {"null:0", "cpu:0"} == {device["id"] for device in devices}
    assert main(["devices"]) == 0
    assert "null:0" in capsys.readouterr().out


def test_every_engine_is_listed_with_its_answer_for_every_device(capsys, monkeypatch) -> None:
    monkeypatch.setenv("TILTH_NULL_DEVICE", "1")
    engines = {engine["name"]: engine for engine in said(capsys, "engines")["engines"]}
    assert {"ort", "openvino", "reference"} <= set(engines)
    answers = {answer["device"]: answer for answer in engines["ort"]["devices"]}
    assert "fp32" in answers["cpu:0"]["precisions"]
    assert answers["null:0"]["precisions"] == []
    assert "null" in answers["null:0"]["refusals"][0]["reason"]
    assert main(["engines"]) == 0
    assert "openvino" in capsys.readouterr().out


class Absent:
    """An engine whose library is not installed."""

    name = "absent"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def version(self) -> str:
        raise self.error

    def refusals(self, graph, device) -> list:
        return []

    def options(self, graph, device, precisions) -> list:
        return []

    def load(self, model, build, device):
        raise self.error


def test_a_missing_engine_says_how_to_install_it() -> None:
    error = MissingError("acme is not installed", why="No module named 'acme'", hint="run `pip install acme`")
    facts = examine(Absent(error), [CPU])
    assert not facts.installed
    assert facts.hint == "run `pip install acme`"


def test_a_broken_vendor_library_does_not_hide_the_other_engines() -> None:
    facts = examine(Absent(AttributeError("_ARRAY_API not found")), [CPU])
    assert not facts.installed
    assert "_ARRAY_API" in facts.why


def test_doctor_exits_with_6_only_for_errors(capsys) -> None:
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    errors = [finding for finding in report["findings"] if finding["level"] == "error"]
    assert code == (6 if errors else 0)
    assert report["sound"] == (not errors)
    assert report["versions"]["tilth"]
    assert main(["doctor"]) == code
    assert f"{len(errors)} errors" in capsys.readouterr().out


def test_a_table_in_a_pipe_is_not_cut_to_eighty_columns(capsys, monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    console().print(table(("name", "size"), [("x" * 100, 1)], right=("size",)))
    assert "x" * 100 in capsys.readouterr().out


def test_a_cell_cannot_hold_markup_or_escapes(capsys) -> None:
    console().print(table(("name",), [("[red]m[/red]\x1b[2J :smile:",)]))
    shown = capsys.readouterr().out
    assert r"[red]m[/red]\x1b[2J :smile:" in shown


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (25276514304, "23.5 GiB"), (5 << 50, "5120 TiB")],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert human_bytes(size) == text
