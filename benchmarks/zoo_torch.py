"""Builders of the zoo's models: each writes one ONNX file with a dynamic batch axis.

`python benchmarks/zoo_torch.py NAME PATH` makes one and keeps it only if onnxruntime gives the source
framework's answers at batch 1 and batch 4, within a relative error of 1e-4.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from zoo import RECIPES, Array, Arrays, photos, table_rows

Predict = Callable[[Arrays], Array]
_OPSET = 18


class _Residual(nn.Module):  # type: ignore[misc]  # torch is skipped by mypy
    """Two dilated convolutions that see the past only: (batch, channels, steps) keeps its shape."""

    def __init__(self, channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.ConstantPad1d(((kernel - 1) * dilation, 0), 0.0)]
            layers += [nn.Conv1d(channels, channels, kernel, dilation=dilation)]
            layers += [nn.BatchNorm1d(channels), nn.ReLU()]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y


class _Recurrent(nn.Module):  # type: ignore[misc]
    """(batch, steps, 32) to 8 figures from the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 128, num_layers=2, batch_first=True)
        self.head = nn.Linear(128, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.lstm(x)[0][:, -1])
        return y


class _Logits(nn.Module):  # type: ignore[misc]
    """The logits alone of a `transformers` image model, which answers with a record."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        y: Tensor = self.model(pixel_values=pixel_values).logits
        return y


class _Hidden(nn.Module):  # type: ignore[misc]
    """The last hidden state alone of a `transformers` text model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        y: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return y


def _digits(path: Path) -> Predict:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, labels, _ = table_rows("digits")
    model = make_pipeline(StandardScaler(), MLPClassifier((128,), max_iter=300, tol=1e-3, random_state=0))
    model.fit(rows, labels)
    types = [("input", FloatTensorType([None, rows.shape[1]]))]
    proto = to_onnx(model, initial_types=types, options={id(model): {"zipmap": False}}, target_opset=_OPSET)
    onnx.save(proto, path)
    return lambda feed: np.asarray(model.predict_proba(feed["input"]))


def _lightgbm(path: Path) -> Predict:
    from lightgbm import LGBMClassifier
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    rows, labels, _ = table_rows("breast_cancer")
    model = LGBMClassifier(n_estimators=200, random_state=0, n_jobs=1, deterministic=True, verbose=-1)
    model.fit(rows, labels)
    types = [("input", FloatTensorType([None, rows.shape[1]]))]
    onnx.save(convert_lightgbm(model, initial_types=types, zipmap=False, target_opset=15), path)
    return lambda feed: np.asarray(model.predict_proba(feed["input"]))


def _mlp(path: Path) -> Predict:
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    rows, labels, _ = table_rows("digits")
    x, y = torch.from_numpy(rows), torch.from_numpy(labels)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return _export(model, "mlp", path)


def _tcn(path: Path) -> Predict:
    blocks = [_Residual(64, 5, 2**i) for i in range(8)]
    model = nn.Sequential(nn.Conv1d(16, 64, 1), *blocks, nn.Conv1d(64, 8, 1))
    _kaiming(model)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm1d)):
        nn.init.normal_(norm.running_mean, 0, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return _export(model, "tcn", path)


def _lstm(path: Path) -> Predict:
    model = _Recurrent()
    for name, weight in model.lstm.named_parameters():
        if weight.ndim > 1:
            (nn.init.orthogonal_ if "hh" in name else nn.init.xavier_uniform_)(weight)
    return _export(model, "lstm", path)


def _autoencoder(path: Path) -> Predict:
    widths = [3, 32, 64, 128]
    layers: list[nn.Module] = []
    for narrow, wide in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.ReLU()]
    for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True):
        layers += [nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers[:-1], nn.Sigmoid())
    _kaiming(model)
    return _export(model, "autoencoder", path)


def _kaiming(model: nn.Module) -> None:
    """Keep the size of activations through ReLU layers."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def _mobilenet_v2(path: Path) -> Predict:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    model = MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=1000))
    blocks = [m for m in model.modules() if getattr(m, "use_residual", False)]
    _calm([block.reduce_1x1.normalization for block in blocks])
    return _classifier(model, "mobilenet_v2", path)


def _resnet50(path: Path) -> Predict:
    from transformers import ResNetConfig, ResNetForImageClassification
    from transformers.models.resnet.modeling_resnet import ResNetBottleNeckLayer

    model = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    blocks = [m for m in model.modules() if isinstance(m, ResNetBottleNeckLayer)]
    _calm([block.layer[-1].normalization for block in blocks])
    return _classifier(model, "resnet50", path)


def _convnext_t(path: Path) -> Predict:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    # The default layer scale of 1e-6 switches every block of an untrained network off.
    config = ConvNextConfig(num_labels=1000, layer_scale_init_value=0.1)
    return _classifier(ConvNextForImageClassification(config), "convnext_t", path)


def _vit_s(path: Path) -> Predict:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=1000)
    return _classifier(ViTForImageClassification(config), "vit_s", path)


def _segformer_b0(path: Path) -> Predict:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    return _classifier(SegformerForSemanticSegmentation(SegformerConfig(num_labels=150)), "segformer_b0", path)


def _bert_base(path: Path) -> Predict:
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(), add_pooling_layer=False)
    return _export(_Hidden(model), "bert_base", path)


def _calm(norms: list[nn.Module]) -> None:
    """Scale the branches of residual blocks as training does, where they start at 0 (Goyal et al. 2017, section 5.1).

    With scales of 1 an untrained network is chaotic: ResNet-50 makes 11 % of what bfloat16 rounds.
    """
    for norm in norms:
        nn.init.constant_(norm.weight, 0.2)


def _classifier(model: nn.Module, name: str, path: Path) -> Predict:
    model.eval()
    _settle(model)
    return _export(_Logits(model), name, path)


def _settle(model: nn.Module) -> None:
    """Give batch normalisation the statistics of images, so that activations keep their size."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # an average over all passes, not a fading one
    with torch.no_grad():
        for seed in range(10, 14) if norms else ():
            model(torch.from_numpy(photos(8, seed, size=224)["pixel_values"]))


def _export(model: nn.Module, name: str, path: Path) -> Predict:
    model.eval()
    example = {k: torch.from_numpy(v) for k, v in RECIPES[name].inputs(2, 3).items()}
    torch.onnx.export(
        model,
        tuple(example.values()),
        path,
        input_names=list(example),
        output_names=["output"],
        dynamic_shapes=({0: torch.export.Dim("batch")},) * len(example),
        opset_version=_OPSET,
        external_data=False,
        dynamo=True,
        verbose=False,
    )

    def predict(feed: Arrays) -> Array:
        with torch.no_grad():
            return np.asarray(model(*(torch.from_numpy(feed[k]) for k in example)))

    return predict


BUILDERS: dict[str, Callable[[Path], Predict]] = {
    "digits": _digits,
    "lightgbm": _lightgbm,
    "mlp": _mlp,
    "tcn": _tcn,
    "lstm": _lstm,
    "autoencoder": _autoencoder,
    "mobilenet_v2": _mobilenet_v2,
    "resnet50": _resnet50,
    "convnext_t": _convnext_t,
    "vit_s": _vit_s,
    "segformer_b0": _segformer_b0,
    "bert_base": _bert_base,
}


def _tidy(name: str, path: Path) -> None:
    """Name the batch axis, and drop what differs from one making to the next: random names, stack traces."""
    proto = onnx.load(path)
    graph = proto.graph
    for value in [*graph.input, *graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    graph.name, graph.doc_string = name, ""
    proto.opset_import.sort(key=lambda opset: opset.domain)
    for part in (proto, graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def _prove(name: str, path: Path, predict: Predict) -> None:
    """Raise RuntimeError unless onnxruntime agrees with the source at batch 1 and 4."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows in (1, 4):
        feed = RECIPES[name].inputs(rows, 4)
        wanted, found = predict(feed), session.run(None, feed)[-1]
        error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
        print(f"{name}: batch {rows}, relative error {error:.1e}, output {found.shape}", file=sys.stderr)
        if found.shape != wanted.shape or not error <= 1e-4:
            raise RuntimeError(f"`{name}` disagrees with its source at batch {rows}: {error:.1e} > 1e-4")


def main(name: str, path: Path) -> None:
    """Write the model `name` to `path`, whole and proven or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The exporter speaks of its own future and of torchvision, which no model here needs.
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.onnx")
    try:
        torch.manual_seed(0)
        predict = BUILDERS[name](partial)
        _tidy(name, partial)
        _prove(name, partial, predict)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
