"""The size budget of `make check`."""

import runpy
from pathlib import Path

import pytest

BUDGET = runpy.run_path(str(Path(__file__).resolve().parent.parent.parent / "tools" / "size_budget.py"))
judge, waived = BUDGET["judge"], BUDGET["waived"]


def test_a_long_file_without_a_reason_fails() -> None:
    failures, thoughts = judge({"a.py": 601, "b.py": 401, "c.py": 400}, {})
    assert len(failures) == 1 and failures[0].startswith("a.py: 601")
    assert thoughts == ["b.py: 401 lines"]


def test_a_waiver_needs_a_reason_and_a_long_file() -> None:
    failures, thoughts = judge({"a.py": 601}, waived("# why\n\na.py: one table\n"))
    assert failures == [] and "one table" in thoughts[0]
    assert len(judge({"a.py": 20}, {"a.py": "one table"})[0]) == 1
    with pytest.raises(ValueError, match=r"a\.py"):
        waived("a.py:")
