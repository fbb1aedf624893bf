"""Every file of methods/ keeps the contract; a new one is found here without any edit."""

import pytest
import torch

from ethoray import methods
from ethoray.learning import Method
from ethoray.testing import MethodContract, toy_spec


class TestEveryMethod(MethodContract):
    @pytest.fixture(autouse=True, params=methods.names())
    def _named(self, request):
        self.name = request.param

    def method(self) -> Method:
        kind = methods.load(self.name)
        return kind(**kind.presets.get("tiny", kind.presets.get("small", {})))

    def test_it_builds_at_full_size(self):
        with torch.device("meta"):
            method = methods.load(self.name)()
            encoder = method.build(toy_spec(seconds=60.0, fps=30.0, individuals=3, needs=method.needs))
        assert sum(p.numel() for p in encoder.parameters()) >= 0
