"""Tilth proves and measures a trained model on every chip a team owns."""

from typing import TYPE_CHECKING, Any

from tilth.core.version import VERSION

if TYPE_CHECKING:
    from tilth.api import Model, build, import_model, load

__version__ = VERSION
__all__ = ["Model", "__version__", "build", "import_model", "load"]


def __getattr__(name: str) -> Any:
    """Load the API on first use, so that `import tilth` stays light."""
    if name in __all__:
        from tilth import api

        return getattr(api, name)
    raise AttributeError(f"module `tilth` has no attribute `{name}`")
