"""`tilth doctor`: what on this machine makes builds slow, wrong or unsafe, and what to change."""

import platform
from collections import Counter

import typer
from rich.text import Text

from tilth import wiring
from tilth.bridge import machine_facts
from tilth.bridge.cache import cache_folder
from tilth.bridge.doctor import Facts, Finding, Level, diagnose
from tilth.cli.devices import present
from tilth.cli.engines import examine
from tilth.cli.output import AsJson, emit
from tilth.cli.plain import visible
from tilth.core.errors import RefusedError
from tilth.core.version import VERSION

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.ERROR: "bold red"}


def command(as_json: AsJson = False) -> None:
    """Look for what makes builds slow, wrong or unsafe on this machine.

    Nothing is changed. Exits with 6 when a finding is an error, else with 0.
    """
    devices = present()
    engines = [examine(engine, devices) for engine in wiring.engines().values()]
    facts = machine_facts.read(devices, engines, cache_folder())
    findings = diagnose(facts)
    sound = not any(finding.level is Level.ERROR for finding in findings)
    emit(
        {"sound": sound, "findings": _as_data(findings), "versions": _versions(facts)},
        as_json,
        lambda: _render(findings),
    )
    if not sound:
        raise typer.Exit(RefusedError.exit_code)


def _as_data(findings: list[Finding]) -> list[dict[str, str]]:
    return [{"level": f.level.value, "what": f.what, "why": f.why, "hint": f.hint} for f in findings]


def _versions(facts: Facts) -> dict[str, str]:
    found = {engine.name: engine.version for engine in facts.engines if engine.installed}
    python = ".".join(map(str, facts.python))
    return found | {"tilth": VERSION, "python": python, "system": platform.platform(terse=True)}


def _render(findings: list[Finding]) -> Text:
    text = Text()
    for finding in findings:
        text.append(f"{finding.level.value:<6}", _STYLES[finding.level])
        text.append(visible(finding.what) + "\n")
        for label, said in (("why: ", finding.why), ("hint:", finding.hint)):
            if said:
                text.append(f"        {label} {visible(said)}\n", "dim" if label == "why: " else "")
    count = Counter(finding.level for finding in findings)
    text.append(f"{count[Level.ERROR]} errors, {count[Level.WARN]} warnings, {count[Level.OK]} in order")
    return text
