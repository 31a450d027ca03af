"""The recipe's modules, as scripts import them; and threads, which the self-test divides products among."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "vendor"))


@pytest.fixture(scope="module", autouse=True)
def _several_threads():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_THREAD_LIMIT")
        patch.setenv("OMP_WAIT_POLICY", "passive")
        yield
