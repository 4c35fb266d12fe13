"""What the documentation and the house rules promise, checked."""

import ast
import re
import runpy
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import tilth
from tilth import wiring
from tilth.cli.main import COMMANDS
from tilth.core import errors

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = sorted((ROOT / "src" / "tilth").rglob("*.py"))
REFERENCE = ROOT / "docs" / "reference"
HEAVY = ("numpy", "onnx", "onnxruntime", "openvino", "torch", "sklearn")


def read(name: str) -> str:
    path = REFERENCE / name
    assert path.is_file(), f"docs/reference/{name} is not written"
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_a_module_without_its_sentence_is_caught(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = text.split("\n\n")[0]
    assert first.endswith((".", "?")), f"{path.name} opens with {first!r}"


@pytest.mark.parametrize("start", ["import tilth", "import tilth.cli.main as m; m.main(['--help'])"])
def test_nothing_heavy_is_loaded_before_it_is_needed(start: str) -> None:
    script = f"{start}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_command_line_page_is_what_the_program_says() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "cli_reference.py"))["page"]()
    assert read("cli.md") == made, "run `python tools/cli_reference.py`"


@pytest.mark.parametrize("error", [errors.TilthError, *errors.TilthError.__subclasses__()], ids=lambda e: e.__name__)
def test_an_error_class_without_a_row_in_the_table_is_caught(error: type[errors.TilthError]) -> None:
    row = rf"^\| {error.exit_code} \| `{error.__name__}` \| \S.* \| \S.* \|$"
    assert re.search(row, read("exit-codes.md"), re.MULTILINE)


def test_exit_codes_that_do_not_exist_are_not_documented() -> None:
    known = {str(error.exit_code) for error in errors.TilthError.__subclasses__()} | {"0", "1", "2"}
    assert set(re.findall(r"^\| (\d+) \|", read("exit-codes.md"), re.MULTILINE)) == known


def test_the_error_on_the_page_is_the_one_that_is_raised() -> None:
    with pytest.raises(errors.MissingError) as caught:
        wiring.engine("ortt")
    assert str(caught.value) in read("exit-codes.md")


def test_a_public_name_that_the_python_page_does_not_document_is_caught() -> None:
    documented = re.findall(r"^#+ `(?:tilth\.)?(\w+)", read("python.md"), re.MULTILINE)
    assert set(documented) >= set(tilth.__all__), f"without a heading: {set(tilth.__all__) - set(documented)}"


def test_public_names_can_be_loaded() -> None:
    assert all(getattr(tilth, name) is not None for name in tilth.__all__)


@pytest.mark.parametrize("group", ["_FRONTENDS", "_ENGINES", "_PROBERS"])
def test_a_plug_in_that_the_support_page_does_not_name_is_caught(group: str) -> None:
    page = read("support.md")
    missing = [name for name in getattr(wiring, group) if f"`{name}`" not in page]
    assert missing == []


def test_every_plug_in_has_the_name_that_wiring_gives_it() -> None:
    assert all(name == engine.name for name, engine in wiring.engines().items())
    assert {frontend.name for frontend in wiring.frontends()} >= set(wiring._FRONTENDS)
    assert {prober.name for prober in wiring.probers()} >= set(wiring._PROBERS)


def test_entry_point_groups_are_the_ones_that_are_declared() -> None:
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for group in ("tilth.frontends", "tilth.engines", "tilth.devices"):
        assert f'[project.entry-points."{group}"]' in declared
        assert len({point.name for point in entry_points(group=group)}) == len(entry_points(group=group))


def test_every_command_is_named_by_the_file_that_holds_it() -> None:
    files = {path.stem.rstrip("_") for path in (ROOT / "src/tilth/cli").glob("*.py")}
    assert {name for name, _, _ in COMMANDS} <= files


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []
