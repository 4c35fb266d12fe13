"""The models that the bridge benchmark measures, made once into a cache folder and reused.

`python benchmarks/zoo.py [name ...]` makes what is missing and prints one line per model.
"""

import functools
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx

Array = np.ndarray
Arrays = dict[str, Array]

# Part of the cache path: raise it whenever a builder or its training data changes.
EDITION = "2"
_HERE = Path(__file__).resolve().parent
# The first three formants of five vowels as men speak them: Peterson and Barney, 1952.
_VOWELS_HZ = np.array([[730, 1090, 2440], [530, 1840, 2480], [270, 2290, 3010], [570, 840, 2410], [300, 870, 2240]])


@dataclass(frozen=True)
class ZooModel:
    """One model file with inputs for it.

    `sample` is one request (batch 1); `calibration` holds at least 32 others along the same batch axis.
    An input without a batch axis (a sampling rate) is the same in both.
    """

    name: str
    path: Path
    sample: Arrays
    calibration: Arrays
    note: str


@dataclass(frozen=True)
class Recipe:
    """How to get one model: `inputs(rows, seed)` gives its inputs; `file` is set when it is a published one."""

    inputs: Callable[[int, int], Arrays]
    rows: int
    note: str
    file: str = ""


def models(only: set[str] | None = None) -> list[ZooModel]:
    """Return the models named in `only` (all by default) in the order of `RECIPES`, making what is missing.

    The cache is `$TILTH_ZOO` (default `~/.cache/tilth/zoo`). Published models are read from `$TILTH_MODELS`
    (default `shared/models` beside the repository); an absent one is left out with a line on stderr.

    Raises:
        ValueError: a name in `only` is unknown.
        subprocess.CalledProcessError: a model could not be made; its error is on stderr.
    """
    unknown = sorted((only or set()) - RECIPES.keys())
    if unknown:
        raise ValueError(f"unknown model `{', '.join(unknown)}`; known: {', '.join(RECIPES)}")
    return [_model(name) for name in RECIPES if (only is None or name in only) and _present(name)]


def _present(name: str) -> bool:
    path = _locate(name)
    if path.exists():
        return True
    if RECIPES[name].file:
        print(f"skipped `{name}`: there is no `{path}` (set TILTH_MODELS)", file=sys.stderr)
        return False
    # In a child: a training framework's threads and memory must not share the process that measures.
    print(f"making `{name}` ...", file=sys.stderr)
    subprocess.run([sys.executable, str(_HERE / "zoo_torch.py"), name, str(path)], check=True)
    return True


def _locate(name: str) -> Path:
    if file := RECIPES[name].file:
        return Path(os.environ.get("TILTH_MODELS") or _HERE.parent.parent / "shared" / "models") / file
    cache = Path(os.environ.get("TILTH_ZOO") or Path.home() / ".cache" / "tilth" / "zoo")
    return cache / EDITION / f"{name}.onnx"


def _model(name: str) -> ZooModel:
    recipe, path = RECIPES[name], _locate(name)
    sample, calibration = recipe.inputs(1, 1), recipe.inputs(recipe.rows, 2)
    if "state" in sample:
        _carry_state(path, sample)
        _carry_state(path, calibration)
    return ZooModel(name, path, sample, calibration, recipe.note)


def _carry_state(path: Path, arrays: Arrays) -> None:
    """Fill `state` with what the model itself carries into each window, the windows taken in order."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    state = arrays["state"][:, :1]
    # Three windows of lead-in, so that a lone sample too starts from a state in use.
    for row in [0, 0, 0, *range(len(arrays["input"]))]:
        arrays["state"][:, row : row + 1] = state
        feed = {"input": arrays["input"][row : row + 1], "state": state, "sr": arrays["sr"]}
        state = session.run(["stateN"], feed)[0]


def table_rows(source: str) -> tuple[Array, Array, Array]:
    """Return (training rows, training labels, held-out rows), float32, of `digits` or `breast_cancer`."""
    from sklearn import datasets

    data = getattr(datasets, f"load_{source}")()
    order = np.random.default_rng(0).permutation(len(data.data))
    rows, labels = data.data[order].astype(np.float32), data.target[order]
    cut = len(rows) - 280
    return rows[:cut], labels[:cut], rows[cut:]


def _held_out(rows: int, seed: int, *, source: str) -> Arrays:
    """Rows that the model was not trained on: the first is the sample, the others calibrate."""
    held_out = table_rows(source)[2]
    order = np.random.default_rng(seed).permutation(np.arange(1, len(held_out)))
    return {"input": held_out[:1] if rows == 1 else held_out[order[:rows]]}


def _signals(rows: int, seed: int, *, channels: int, steps: int) -> Array:
    """Sensor-like series, float32 (rows, channels, steps): three tones per channel, drift, 10 % noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps) / steps
    series = rng.normal(0, 0.5, (rows, channels, 1)) * t + 0.1 * rng.normal(size=(rows, channels, steps))
    for _ in range(3):
        frequency, phase, size = rng.uniform(0, 1, (3, rows, channels, 1))
        series += (0.2 + size) * np.sin(2 * np.pi * (24 * frequency * t + phase))
    return np.asarray(series, np.float32)


def _channels_first(rows: int, seed: int) -> Arrays:
    return {"input": _signals(rows, seed, channels=16, steps=512)}


def _steps_first(rows: int, seed: int) -> Arrays:
    return {"input": np.ascontiguousarray(_signals(rows, seed, channels=32, steps=64).swapaxes(1, 2))}


def _images(rows: int, seed: int, size: int) -> Array:
    """Smooth colour images, values 0 to 1, (rows, 3, size, size): 32 sinusoids each, weaker when finer."""
    rng = np.random.default_rng(seed)
    down, across = rng.uniform(-12, 12, (2, rows, 3, 32, 1))
    # The colour channels of a photograph resemble each other: share the waves, vary the weights.
    down[:, 1:], across[:, 1:] = down[:, :1], across[:, :1]
    phase = rng.random((rows, 1, 32, 1)) + 0.1 * rng.random((rows, 3, 32, 1))
    weight = np.exp(2j * np.pi * phase) / (1 + np.hypot(down, across))
    turn = 2j * np.pi * np.arange(size) / size
    field = np.real((weight * np.exp(down * turn)).swapaxes(-1, -2) @ np.exp(across * turn))
    return np.asarray(1 / (1 + np.exp(-2 * field / field.std(axis=(1, 2, 3), keepdims=True))))


def _tiles(rows: int, seed: int) -> Arrays:
    return {"input": _images(rows, seed, 64).astype(np.float32)}


def photos(rows: int, seed: int, *, size: int) -> Arrays:
    """Images normalised with ImageNet's mean and deviation, float32 (rows, 3, size, size)."""
    mean, deviation = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    return {"pixel_values": ((_images(rows, seed, size) - mean) / deviation).astype(np.float32)}


def _tokens(rows: int, seed: int) -> Arrays:
    """Token numbers as frequent as words are, int64 (rows, 128); every row but the first is padded."""
    rng = np.random.default_rng(seed)
    ids = 1000 + rng.zipf(1.2, (rows, 128)) % 29_000
    length = np.concatenate([[128], rng.integers(16, 129, rows - 1)])
    mask = np.arange(128) < length[:, None]
    ids[:, 0], ids[np.arange(rows), length - 1] = 101, 102  # [CLS] and [SEP]
    return {"input_ids": (ids * mask).astype(np.int64), "attention_mask": mask.astype(np.int64)}


def _file_bytes(rows: int, seed: int) -> Arrays:
    """First and last 1,024 bytes of files of several kinds, int32 (rows, 2048); 256 fills what is missing."""
    paths = _files()
    order = np.random.default_rng(seed).permutation(np.arange(1, len(paths)))
    chosen = [paths[0]] if rows == 1 else [paths[i] for i in order[:rows]]
    filled = np.full((len(chosen), 2048), 256, np.int32)
    for row, path in zip(filled, chosen, strict=True):
        content = path.read_bytes()
        head, tail = content[:1024].lstrip(), content[-1024:].rstrip()
        row[: len(head)] = np.frombuffer(head, np.uint8)
        row[2048 - len(tail) :] = np.frombuffer(tail, np.uint8)
    return {"bytes": filled}


@functools.cache
def _files() -> list[Path]:
    """Up to 40 files of each of nine kinds that come with Python, scikit-learn and onnx."""
    import sklearn.datasets

    folders = [sysconfig.get_paths()["stdlib"], *sklearn.datasets.__path__, *onnx.__path__]
    everything = sorted({path for folder in folders for path in _walk(folder)})
    found: list[Path] = []
    for kind in (".py", ".pyc", ".so", ".txt", ".csv", ".rst", ".jpg", ".gz", ".h"):
        paths = [path for path in everything if path.suffix == kind]
        found += paths[:: len(paths) // 40 + 1]
    return found


def _walk(folder: str) -> Iterator[Path]:
    for top, below, names in os.walk(folder):
        below[:] = [name for name in below if name not in {"site-packages", "dist-packages", "test"}]
        yield from (path for path in (Path(top, name) for name in names) if path.stat().st_size >= 256)


def _speech(rows: int, seed: int) -> Arrays:
    """Every second 32 ms window of a voice at 16 kHz, float32 (rows, 576): 64 samples of context, then 512.

    `state` is zero here; `sr` has no batch axis.
    """
    sound = _voice(1024 * (rows + 8), seed)
    starts = 7680 + 1024 * np.arange(rows)
    windows = np.stack([sound[start - 64 : start + 512] for start in starts])
    return {"input": windows, "state": np.zeros((2, rows, 128), np.float32), "sr": np.array(16_000, np.int64)}


def _voice(samples: int, seed: int) -> Array:
    """A synthetic voice at 16 kHz, peak 0.5: harmonics shaped by the formants of five vowels, with pauses."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / 16_000
    pitch_hz = rng.uniform(100, 180) * (1 + 0.15 * np.sin(2 * np.pi * 0.7 * t) + 0.02 * np.sin(2 * np.pi * 5 * t))
    turn = 2 * np.pi * np.cumsum(pitch_hz) / 16_000
    formants_hz = _VOWELS_HZ[rng.integers(0, 5, samples // 3200 + 1)][np.arange(samples) // 3200].T
    sound = np.zeros(samples)
    for harmonic in range(1, 30):
        distance = harmonic * pitch_hz - formants_hz
        loudness = (np.exp(-((distance / 120) ** 2)) * [[1], [0.5], [0.25]]).sum(axis=0) + 0.02
        sound += loudness / harmonic**0.5 * np.sin(harmonic * turn)
    syllables = np.clip(np.sin(2 * np.pi * 2.5 * t) + 0.6, 0, 1) * (np.sin(2 * np.pi * 0.4 * t) > -0.7)
    voiced = sound * syllables
    return np.asarray(0.5 * voiced / np.abs(voiced).max() + 0.003 * rng.normal(size=samples), np.float32)


_PHOTOS_224 = functools.partial(photos, size=224)
_RANDOM = "transformers configuration, random weights"

RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        functools.partial(_held_out, source="digits"), 256, "StandardScaler + MLP(128), trained on the digits"
    ),
    "lightgbm": Recipe(
        functools.partial(_held_out, source="breast_cancer"), 256, "200 trees, trained on breast cancer"
    ),
    "mlp": Recipe(functools.partial(_held_out, source="digits"), 256, "64-256-256-10, trained on the digits"),
    "tcn": Recipe(_channels_first, 32, "8 dilated causal blocks of 64 channels, random weights"),
    "lstm": Recipe(_steps_first, 32, "2 layers of 128 over 64 steps, random weights"),
    "autoencoder": Recipe(_tiles, 32, "convolutions 32-64-128 on 3x64x64, random weights"),
    "mobilenet_v2": Recipe(_PHOTOS_224, 32, f"{_RANDOM}, residual branches scaled by 0.2"),
    "resnet50": Recipe(_PHOTOS_224, 32, f"{_RANDOM}, residual branches scaled by 0.2"),
    "convnext_t": Recipe(_PHOTOS_224, 32, f"{_RANDOM}, layer scale 0.1"),
    "vit_s": Recipe(_PHOTOS_224, 32, _RANDOM),
    "segformer_b0": Recipe(functools.partial(photos, size=512), 32, f"{_RANDOM}, 512x512"),
    "bert_base": Recipe(_tokens, 32, f"{_RANDOM}, 128 tokens"),
    "magika_v3_0": Recipe(_file_bytes, 64, "published weights", "magika_v3_0.onnx"),
    "magika_v3_1": Recipe(_file_bytes, 64, "published weights", "magika_v3_1.onnx"),
    "silero_vad": Recipe(_speech, 64, "published weights, 16 kHz", "silero_vad_16k_op15.onnx"),
}


def _count_nodes(graph: onnx.GraphProto) -> int:
    """Count nodes, those of nested subgraphs included."""
    nested = (a for node in graph.node for a in node.attribute if a.HasField("g"))
    return len(graph.node) + sum(_count_nodes(a.g) for a in nested)


def _row(model: ZooModel) -> str:
    graph = onnx.load(model.path).graph
    parameters = sum(prod(weight.dims) for weight in graph.initializer)
    shapes = " ".join(f"{name}={array.dtype}{list(array.shape)}" for name, array in model.sample.items())
    size_mb = model.path.stat().st_size / 1e6
    return f"{model.name:<13} {_count_nodes(graph):>6} {parameters:>12,} {size_mb:>8.2f}  {shapes}"


def main(names: list[str]) -> None:
    """Print one line per model in `names` (all by default), making what is missing."""
    print(f"{'model':<13} {'nodes':>6} {'parameters':>12} {'file MB':>8}  sample")
    for name in names or RECIPES:
        for model in models({name}):
            print(_row(model), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
