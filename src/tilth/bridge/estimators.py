"""What a composed estimator is made of: pipelines, column transformers, searches and ensembles."""

from collections.abc import Iterator
from typing import Any

import numpy as np


def steps(model: Any) -> Iterator[Any]:
    """Yield what a pipeline is composed of, without the compositions themselves."""
    if model is None or isinstance(model, str):
        return
    for name in ("steps", "transformer_list", "transformers_"):
        if hasattr(model, name):
            for item in getattr(model, name):
                yield from steps(item[1])
            return
    if hasattr(model, "best_estimator_"):
        yield from steps(model.best_estimator_)
        return
    yield model


def parts(model: Any) -> list[Any]:
    """Return every object of scikit-learn's or its like inside the model, the model first."""
    found, waiting, seen = [], [model], set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, str | bytes | int | float | np.ndarray | type):
            continue
        seen.add(id(item))
        if isinstance(item, list | tuple):
            waiting += item
        elif isinstance(item, dict):
            waiting += item.values()
        elif hasattr(item, "__dict__") and (
            hasattr(item, "get_params") or type(item).__module__.startswith("sklearn.")
        ):
            found.append(item)
            waiting += vars(item).values()
    return found


def final(model: Any) -> Any:
    """Return the last step, the one that answers."""
    while True:
        if hasattr(model, "steps"):
            model = model.steps[-1][1]
        elif hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        else:
            return model
