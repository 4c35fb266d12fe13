"""Write `docs/reference/conformance.md`: what each engine makes of ONNX's node tests. Takes minutes.

Run it as `python tools/conformance_table.py 2026-11-22`; the date goes into the page, so that the same versions on
the same day give the same bytes.
"""

import runpy
import sys
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tilth import __version__, wiring
from tilth.testing.node_tests import NodeCase, bit_difference, node_cases
from tilth.testing.round_trip import from_bundle, imported, refusal
from tilth.testing.survey import Kind, Outcome, survey

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "conformance.md"
ENGINES = ("ort", "openvino", "reference")

_HEAD = """# Conformance

ONNX publishes a test for every operator: a model of one node, inputs, and the outputs that it expects. This page says
what becomes of them in Tilth. It is written by `python tools/conformance_table.py {date}`, here on {date} with
{versions}, on one `{target}` CPU.

The suites that plug-ins are held to are `tilth.testing.engine_suite`, `tilth.testing.frontend_suite` and
`tilth.testing.blob_suite`.

## Through a bundle

What onnxruntime passes when it is called alone, `InferenceSession(model).run(None, inputs)`, passes through a bundle
bit for bit: imported with the test's inputs as sample, written, opened, verified, and run twice. What it does not
pass is refused at import, with the reason. Where it runs and gives other numbers, the expected outputs are in the
sample as recorded outputs.

{through}

*Close* are tests whose own bound, an absolute 1e-7 around zero, onnxruntime misses, while it is within 1e-4 of the
output's root mean square, or for float16 outputs within `2^-10`, one step of that type. Import judges by
[the second measure](../adr/0006-relative-error-definition.md), and takes them.

## By engine

Every engine runs each test in a child process, in full precision and without settings.

{engines}

- *agrees*: within the test's own tolerance. *close*: see above.
- *disagrees*: the outputs differ, and agreement with golden outputs finds it, so that such a build is never chosen.
- *no bundle*: an input or output of a type that arrays do not have, such as bfloat16 or int4, or an operator of an
  unknown domain; refused at import.
- *refused*: the engine says beforehand that it will not run this. *not loaded*, *not run*: it says so later.
- *crashed*: its process ended. *broken*: it broke the contract of an engine; there must be none.

{lists}"""


def page(date: str) -> str:
    """Return the whole page."""
    cases = node_cases()
    found = {name: _surveyed(name, cases) for name in ENGINES}
    return _HEAD.format(
        date=date,
        versions=_versions(),
        target=wiring.this_device().target,
        through=_table(("onnxruntime alone", "tests", "through a bundle"), _through(cases)),
        engines=_table(("", *(f"`{name}`" for name in ENGINES)), _counts(found)),
        lists="\n".join(_list(name, outcomes) for name, outcomes in found.items()),
    )


def _versions() -> str:
    engines = ", ".join(f"{name} {wiring.engine(name).version()}" for name in ENGINES[:2])
    return f"tilth {__version__}, onnx {version('onnx')}, {engines} and numpy {version('numpy')}"


def _surveyed(name: str, cases: Iterable[NodeCase]) -> list[Outcome]:
    engine, command = wiring.engine(name), wiring.worker_command("measure")
    with TemporaryDirectory() as folder:
        outcomes = list(survey(engine, command, wiring.this_device(), cases, Path(folder)))
    print(f"{name}: {dict(Counter(outcome.kind.value for outcome in outcomes))}", flush=True)
    return outcomes


def _through(cases: Iterable[NodeCase]) -> list[tuple[str, ...]]:
    in_process = runpy.run_path(str(ROOT / "tests" / "conformance" / "in_process.py"))["in_process"]
    tally: Counter[tuple[str, str]] = Counter()
    for case in cases:
        alone, wanted = in_process(case)
        tally[alone.kind.value, _ended(case, alone, wanted)] += 1
    order = [kind.value for kind in Kind]
    rows = sorted(tally.items(), key=lambda item: (order.index(item[0][0]), -item[1], item[0][1]))
    return [*((kind, str(count), ended) for (kind, ended), count in rows), ("", f"{tally.total()}", "")]


def _ended(case: NodeCase, alone: Outcome, wanted: dict[str, Any]) -> str:
    frontend = next(f for f in wiring.frontends() if f.name == "onnx")
    parts = (frontend, wiring.engine("ort"), wiring.this_device())
    with TemporaryDirectory() as folder:
        bundle = Path(folder) / "case.tilth"
        if alone.kind in (Kind.AGREES, Kind.CLOSE):
            imported(case, case.inputs, *parts, bundle)
            found = from_bundle(bundle, *parts[1:], calls=2)
            return "other bits" if any(bit_difference(one, wanted) for one in found) else "the same bits"
        error = refusal(case, {**case.inputs, **(case.outputs if wanted else {})}, *parts, bundle)
    edge = "has element type" in error.why
    what = "an input or output has a type that arrays do not have" if edge else error.what
    return f"refused, `{type(error).__name__}`: {what}"


def _counts(found: dict[str, list[Outcome]]) -> list[tuple[str, ...]]:
    tallies = [Counter(outcome.kind for outcome in outcomes) for outcomes in found.values()]
    rows = [(kind.value, *(str(tally[kind]) for tally in tallies)) for kind in Kind]
    return [*rows, ("all", *(str(tally.total()) for tally in tallies))]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _list(name: str, outcomes: list[Outcome]) -> str:
    names = [f"`{o.case.removeprefix('test_')}`" for o in outcomes if o.kind is Kind.DISAGREES]
    return f"Where `{name}` disagrees: {', '.join(names) or 'nowhere'}.\n"


if __name__ == "__main__":
    PAGE.write_text(page(sys.argv[1]), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
