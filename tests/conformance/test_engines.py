"""Every engine that comes with Tilth, through the published suite."""

from importlib.util import find_spec

import pytest

from tilth import wiring
from tilth.testing.engine_suite import EngineSuite
from tilth.testing.fake_engine import FakeEngine


class TestOrt(EngineSuite):
    engine = wiring.engine("ort")


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
class TestOpenVino(EngineSuite):
    engine = wiring.engine("openvino")


class TestReference(EngineSuite):
    engine = wiring.engine("reference")


class TestFake(EngineSuite):
    engine = FakeEngine()
