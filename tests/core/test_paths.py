"""The user's cache folder, which the recipe of llama.cpp's build finds without any package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from luq_gguf.core import paths

RECIPE = Path(__file__).parents[2] / "vendor" / "build.py"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the recipe keeps to ~/.cache")
def test_builds_and_caches_lie_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPE.parent))  # it imports the modules beside it
    spec = importlib.util.spec_from_file_location("recipe_for_paths", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, expected in ((str(tmp_path / "own"), tmp_path / "own"), ("", tmp_path / ".cache")):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert paths.cache("eval") == recipe.cache_root() / "eval" == expected / "luq-gguf" / "eval"
    assert not any(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_replaced_for_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    told: list[str] = []
    assert paths.writable("eval", told.append) == tmp_path / "cache" / "luq-gguf" / "eval"
    assert not told
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    other = paths.writable("eval", told.append)
    (other / "x").touch()
    assert tmp_path not in other.parents
    assert "cannot be written" in told[0]
    assert paths.writable("eval", told.append) == other
