"""What activations look like on calibration inputs: their range, spread and means."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, TensorShapeProto, TypeProto, helper, save_model
from onnx.shape_inference import infer_shapes

from tilth.bridge.disk import sibling
from tilth.bridge.scales import Scale, activation_scale
from tilth.core.errors import InvalidError
from tilth.ports.arrays import Array, Values
from tilth.ports.engine import Session

Load = Callable[[Path], Session]
Visit = Callable[[str, Array], None]

#: What the watched tensors of one run may take together.
_GROUP_BYTES = 32 << 20
#: About how many numbers are looked at in all; small models see more rows than large ones.
_NUMBERS = 1 << 27
_LEAST_ROWS, _MOST_ROWS = 8, 64
_BINS = 4096
#: A tensor of more values is thinned before it is counted; its ends are always found.
_COUNTED = 1 << 16
#: Shares of the range that are tried as ends.
_CUTS = tuple(float(cut) for cut in np.linspace(1.0, 0.3, 29))


class Spread:
    """A histogram of the values of one tensor that grows with them; every bin is 2^-n wide or wider."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self._reach = 0.0
        self._counts = np.zeros(_BINS)

    def add(self, values: Array) -> None:
        """Count `values`, float32 of any shape.

        Raises:
            InvalidError: one of them is NaN or infinite.
        """
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InvalidError(
                "a calibration input makes a value that is NaN or infinite",
                why="such a value has no 8-bit scale",
                hint="look at the calibration inputs and at the outputs that the source gives for them",
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(-low, high))
        if self._reach:
            self._counts += np.histogram(_thinned(values), _BINS, (-self._reach, self._reach))[0]

    def _grow(self, reach: float) -> None:
        # Powers of two, so that two bins merge into one without a remainder.
        wanted = 2.0 ** np.ceil(np.log2(reach)) if reach > 0 else 0.0
        while 0 < self._reach < wanted:
            merged = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts = np.pad(merged, _BINS // 4)
            self._reach *= 2
        self._reach = self._reach or wanted

    def merge(self, other: "Spread") -> None:
        """Count what `other` counted, too."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self._grow(other._reach)
        copy = Spread()
        copy._reach, copy._counts = other._reach, other._counts
        copy._grow(self._reach)
        if copy._reach:
            self._counts = self._counts + copy._counts

    def scale(self) -> Scale:
        """Return the 8-bit scale with the least mean squared error: ends that are rare may be cut."""
        if not self._reach:
            return activation_scale(0.0, 0.0)
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        lows, highs = ([end * cut for cut in _CUTS] if end else [end] for end in (low, high))
        return min((activation_scale(a, b) for a in lows for b in highs), key=self.error)

    def error(self, scale: Scale) -> float:
        """Return the mean squared error of rounding to `scale`."""
        centres = (np.arange(_BINS) + 0.5) * (2 * self._reach / _BINS) - self._reach
        beyond = np.maximum(0, np.maximum(scale.low - centres, centres - scale.high))
        # A bin around zero holds the zeros of a Relu, which are exact.
        inside = (beyond == 0) & (np.abs(centres) > self._reach / _BINS)
        squares = (self._counts * beyond**2).sum() + self._counts[inside].sum() * scale.scale**2 / 12
        return float(squares / max(1.0, self._counts.sum()))

    @property
    def power(self) -> float:
        """Return the mean square."""
        centres = (np.arange(_BINS) + 0.5) * (2 * self._reach / _BINS) - self._reach
        return float((self._counts * centres**2).sum() / max(1.0, self._counts.sum()))


def _thinned(values: Array) -> Array:
    # An odd step walks through all channels, whichever axis they are on.
    return values.reshape(-1)[:: values.size // _COUNTED | 1]


def watch(
    model: ModelProto, folder: Path, names: Iterable[str], inputs: Sequence[Values], load: Load, visit: Visit
) -> None:
    """Call `visit` with each named float32 tensor of the main graph, once per input, in an order that never varies.

    The tensors are read in groups of about 32 MiB, so that memory does not grow with the graph, and from 8 to 64 of the
    inputs are used, fewer the more numbers there are to look at. External weights lie in `folder`; a file is made
    in it and removed again.
    """
    wanted = sorted(set(names))
    if not wanted or not inputs:
        return
    sizes = sizes_of(model, folder, wanted, inputs[0], load)
    rows = int(np.clip(_NUMBERS // max(1, sum(sizes.values())), _LEAST_ROWS, _MOST_ROWS))
    for group in _groups(sizes):
        with closing(_loaded(model, folder, {name: name for name in group}, load)) as session:
            for values in inputs[:rows]:
                found = session.run(values)
                for name in group:
                    visit(name, np.asarray(found[name]))


def _groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    total = 0
    for name, size in sizes.items():
        if group and (total + size) * 4 > _GROUP_BYTES:
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    yield group


def sizes_of(model: ModelProto, folder: Path, names: Iterable[str], values: Values, load: Load) -> dict[str, int]:
    """Return how many elements each named tensor of the main graph has for one input."""
    wanted = list(names)
    sizes = _inferred(model, values)
    asked = {f"tilth_size_{i}": name for i, name in enumerate(wanted) if name not in sizes}
    if asked:
        with closing(_loaded(model, folder, asked, load)) as session:
            found = session.run(values)
        sizes |= {name: int(np.asarray(found[key])) for key, name in asked.items()}
    return {name: sizes[name] for name in wanted}


def _inferred(model: ModelProto, values: Values) -> dict[str, int]:
    """Return the sizes of the tensors whose shapes follow from those of the inputs."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for given in fixed.graph.input:
        value = values.get(given.name)
        if isinstance(value, np.ndarray):
            shape = given.type.tensor_type.shape
            del shape.dim[:]
            shape.dim.extend(TensorShapeProto.Dimension(dim_value=size) for size in value.shape)
    # What was noted for an open batch would contradict what follows from this one.
    del fixed.graph.value_info[:]
    for made in fixed.graph.output:
        made.type.tensor_type.ClearField("shape")
    try:
        graph = infer_shapes(fixed, data_prop=True).graph
    except Exception:  # onnx's own, where a graph is beyond its rules: it is run instead
        return {}
    known = (*graph.value_info, *graph.output)
    return {info.name: size for info in known if (size := _elements(info.type.tensor_type)) is not None}


def _elements(kind: TypeProto.Tensor) -> int | None:
    dims = kind.shape.dim
    sound = kind.HasField("shape") and all(dim.HasField("dim_value") for dim in dims)
    return math.prod(dim.dim_value for dim in dims) if sound else None


def _loaded(model: ModelProto, folder: Path, asked: Mapping[str, str], load: Load) -> Session:
    """Return a session of the model with more outputs: each value of `asked`, or its size under another name."""
    more = ModelProto()
    more.CopyFrom(model)
    present = {value.name for value in more.graph.output}
    for key, name in asked.items():
        if key != name:
            more.graph.node.append(helper.make_node("Size", [name], [key]))
        if key not in present:
            kind = TensorProto.FLOAT if key == name else TensorProto.INT64
            more.graph.output.append(helper.make_tensor_value_info(key, kind, None))
    with sibling(folder / "watched.onnx", folder=False) as path:
        save_model(more, path)
        return load(path)
