"""Products are divided among threads here, which the rest of the tests do without."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _several_threads():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_THREAD_LIMIT")
        patch.setenv("OMP_WAIT_POLICY", "passive")  # or they spin where another worker has the core
        yield
