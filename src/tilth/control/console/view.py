"""Templates to pages: escaped always, strict about names, and with the words that pages use."""

from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tilth.control.console import assets, words
from tilth.core.version import VERSION

#: Scripts, styles and connections from here alone, nothing inline, and no text of ours ever becomes a script.
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types default"
)
HEADERS: Final = {"Content-Security-Policy": CSP, "Cache-Control": "no-store", "Vary": "Cookie"}
_FOLDER: Final = Path(__file__).parent / "templates"
_FILTERS: Final = ("plain", "short", "ms", "rate", "percent", "size", "count", "small", "ago", "utc", "digits", "shape")


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update({name: getattr(words, name) for name in _FILTERS})
    made.globals |= {
        "at": words.at,
        "asset": {name: one.address for name, one in assets.load().items()},
        "version_of_tilth": VERSION,
        "dash": words.NONE,
    }
    return made


def rendered(template: str, values: dict[str, Any]) -> str:
    """Return a template filled with values, all of them escaped."""
    return _environment().get_template(f"{template}.html").render(values)


def warm() -> None:
    """Compile all templates, so that no request waits for that."""
    made = _environment()
    for name in made.list_templates(extensions=["html"]):
        made.get_template(name)
