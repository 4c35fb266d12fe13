"""A model's metadata and configuration as the protocol tells them; pure but for the service that it asks."""

from typing import Any

from tilth.core.signature import BATCH, TensorSpec
from tilth.serve.datatypes import DATATYPES
from tilth.serve.service import Service
from tilth.serve.traffic import ordered


def model_metadata(service: Service, name: str, version: str = "") -> dict[str, Any]:
    """Return the metadata of a model, or of one of its versions.

    Raises:
        MissingError: there is no such model or version.
        UnavailableError: it is there and not loaded.
    """
    unit = service.unit(name, version)
    signature = unit.facts.signature
    return {
        "name": name,
        "versions": ordered(list(service.served(name).units)),
        "platform": f"tilth_{unit.facts.engine}",
        "inputs": [_tensor(spec) for spec in signature.inputs],
        "outputs": [_tensor(spec) for spec in signature.outputs],
        "properties": {"build": unit.facts.build, "label": unit.facts.label, "bundle": unit.facts.digest},
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": sizes(spec)}


def sizes(spec: TensorSpec) -> list[int]:
    """Return a shape in the protocol's form: -1 for a size that the caller chooses."""
    return [dim if isinstance(dim, int) else -1 for dim in spec.shape or (BATCH,)]


def model_config(service: Service, name: str, version: str = "") -> dict[str, Any]:
    """Return the configuration of a model in the form of Triton's model configuration extension.

    Raises:
        MissingError: there is no such model or version.
        UnavailableError: it is there and not loaded.
    """
    unit = service.unit(name, version)
    signature, policy = unit.facts.signature, unit.facts.batching
    config: dict[str, Any] = {
        "name": name,
        "platform": f"tilth_{unit.facts.engine}",
        "backend": "tilth",
        "max_batch_size": 0,  # shapes below hold the batch, as the protocol's metadata does
        "input": [_configured(spec) for spec in signature.inputs],
        "output": [_configured(spec) for spec in signature.outputs],
        "parameters": {
            "build": {"string_value": unit.facts.build},
            "label": {"string_value": unit.facts.label},
            "runs": {"string_value": "inline" if unit.model is not None else "apart"},
        },
    }
    if unit.facts.lanes > 1:
        config["instance_group"] = [{"name": f"{name}_lanes", "count": unit.facts.lanes}]
    if policy.on:
        wait_us = round(policy.wait_s * 1e6)
        config["dynamic_batching"] = {
            "preferred_batch_size": [policy.most_rows],
            "max_queue_delay_microseconds": wait_us,
        }
    return config


def _configured(spec: TensorSpec) -> dict[str, Any]:
    datatype = DATATYPES[spec.dtype]
    return {
        "name": spec.name,
        "data_type": f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}",
        "dims": sizes(spec),
    }
