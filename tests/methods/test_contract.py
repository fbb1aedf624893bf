"""Every file of methods/ keeps the contract; a new one is found here without any edit."""

import pytest

from ethoray import methods
from ethoray.learning import Method
from ethoray.testing import MethodContract


class TestEveryMethod(MethodContract):
    @pytest.fixture(autouse=True, params=methods.names())
    def _named(self, request):
        self.name = request.param

    def method(self) -> Method:
        return methods.load(self.name)()
