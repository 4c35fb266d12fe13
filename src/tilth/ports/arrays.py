"""What crosses every edge: named arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: A tensor, a list of tensors for a sequence, or None for an absent optional.
Value = Array | Sequence[Array] | None

#: Values by input or output name.
Values = Mapping[str, Value]
