"""How to call an endpoint: a command that can be copied and run; pure."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

#: A row of more values than this is not written out.
_MOST_VALUES = 96


def command(address: str, served_as: str, inputs: Sequence[Mapping[str, Any]]) -> str:
    """Return a curl command for one row of zeros, with a placeholder where a row is too long to be written out."""
    body = json.dumps({"instances": [_row(inputs)]})
    lines = [
        f"curl {shlex.quote(f'{address}/v1/models/{served_as}:predict')}",
        '  -H "Authorization: Bearer $TILTH_TOKEN"',
        "  -H 'Content-Type: application/json'",
        f"  -d {shlex.quote(body)}",
    ]
    return " \\\n".join(lines)


def _row(inputs: Sequence[Mapping[str, Any]]) -> Any:
    if not inputs:
        return ["..."]
    if len(inputs) == 1:
        return _value(inputs[0])
    return {str(one["name"]): _value(one) for one in inputs}


def _value(spec: Mapping[str, Any]) -> Any:
    sizes = spec.get("shape")
    # The first size is that of the batch; others that are not known are taken as 1.
    inner = [size if isinstance(size, int) and size > 0 else 1 for size in (sizes or [])[1:]]
    total = 1
    for size in inner:
        total *= size
    return _filled(_zero(str(spec.get("dtype", ""))), inner) if total <= _MOST_VALUES else ["..."]


def _filled(value: Any, sizes: Sequence[int]) -> Any:
    return [_filled(value, sizes[1:]) for _ in range(sizes[0])] if sizes else value


def _zero(dtype: str) -> Any:
    if dtype == "string":
        return ""
    if dtype == "bool":
        return False
    return 0
