"""Every engine that comes with Tilth, through the published suite."""

import pytest

from tilth import wiring
from tilth.testing.engine_suite import EngineSuite
from tilth.testing.fake_engine import FakeEngine

pytest.importorskip("openvino")


class TestOrt(EngineSuite):
    engine = wiring.engine("ort")


class TestOpenVino(EngineSuite):
    engine = wiring.engine("openvino")


class TestReference(EngineSuite):
    engine = wiring.engine("reference")


class TestFake(EngineSuite):
    engine = FakeEngine()
