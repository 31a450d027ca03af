"""The scripts' modules, as they import each other; a checkpoint with random weights and a pool for it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))


@pytest.fixture(scope="session")
def fresh(once) -> Path:
    """A Qwen2.5-VL with two decoder layers and random weights."""
    from instrument import prepare

    return once("fresh-qwen2.5-vl", lambda folder: prepare.prepare("qwen2.5-vl", folder, layers=2))


@pytest.fixture(scope="session")
def small_pool(once, fresh, models) -> Path:
    """Two chunks of sixteen pictures, in the tokens of `fresh` and of the trained LLaVA."""
    from instrument import pool
    from instrument.prompts import Prompts

    folders = (fresh, models / "tiny-llava-1.5")
    return once("pool", lambda folder: pool.fill(folder, [Prompts.of(f) for f in folders], 2, 1, size=16))
