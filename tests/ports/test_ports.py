"""Ports: what plug-ins may rely on."""

from tilth.core.build import Precision
from tilth.plugins.devices.cpu import CpuProber
from tilth.plugins.engines.reference import ReferenceEngine, ReferenceSession
from tilth.plugins.frontends.onnx_file import OnnxFrontend
from tilth.ports.engine import Engine, Option, Session
from tilth.ports.frontend import Capture, Frontend
from tilth.ports.prober import Prober


def test_two_options_do_not_share_their_settings() -> None:
    one, other = Option(Precision.FP32), Option(Precision.FP32)
    one.settings["threads"] = 1
    assert other.settings == {} and other.recipe == "plain"


def test_a_capture_varies_its_batch_unless_told_otherwise() -> None:
    made = Capture(model=None, run=lambda values: values, framework="onnx", version="1")
    assert made.batched and made.sample is None and made.recorded is None and made.notes == ()


def test_what_ships_offers_everything_that_its_port_asks_for() -> None:
    for port, plugin in (
        (Engine, ReferenceEngine),
        (Session, ReferenceSession),
        (Frontend, OnnxFrontend),
        (Prober, CpuProber),
    ):
        wanted = {name for name in vars(port) if not name.startswith("_")}
        assert wanted and all(callable(getattr(plugin, name)) for name in wanted)
