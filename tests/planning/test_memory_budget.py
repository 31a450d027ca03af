"""A plan whose file, mmproj, KV cache and buffers stay within a memory."""

import json
import re

import pytest

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-llava-1.5"], indirect=True)


def test_the_largest_file_within_a_memory(cli, converted, tmp_path):
    run = converted.copy(tmp_path / "run").folder
    ask = ("plan", run, "--ctx", 4096)

    def plan(*more) -> dict:
        done = cli(*ask, "--json", *map(str, more))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    roomy = plan("--target-memory", "4GiB")
    parts = roomy["budget"]["memory"]
    beside = sum(parts.values())
    assert roomy["low_layers"] == []
    assert parts["mmproj_bytes"] == pytest.approx(converted.mmproj.stat().st_size, rel=0.05)
    assert parts["kv_cache_bytes"] == 2 * 2 * 4096 * 128 * 12  # K and V, 16 bits, width, layers
    assert "KV cache" in roomy["budget"]["counts"]

    target = beside + roomy["predicted_file_bytes"] - 100_000
    tight = plan("--target-memory", target)
    assert tight["budget"]["n_bytes"] == target - beside
    assert tight["predicted_file_bytes"] + beside <= target
    assert plan("--low-layers", len(tight["low_layers"]) - 1)["predicted_file_bytes"] + beside > target
    smaller = plan("--target-memory", target, "-ctk", "q8_0", "-ctv", "q8_0")
    assert smaller["low_layers"] == []
    assert smaller["budget"]["context"]["type_k"] == "q8_0"
    assert "memory: " in cli(*ask, "--target-memory", target).stdout

    refused = cli(*ask, "--target-memory", "20MiB")
    assert refused.returncode == 2
    assert "No file fits in 20.00 MiB of memory: with all 12 layers in IQ1_M the text model takes" in refused.stderr
    kept = cli(*ask, "--target-memory", "20MiB", "--keep", "0,-1")
    assert "with 10 of 12 layers in IQ1_M with --keep 0,11 the text model takes" in kept.stderr
    enough, with_cache = re.findall(r"[\d.]+MiB", refused.stderr)
    assert len(plan("--target-memory", enough)["low_layers"]) == 12
    assert len(plan("--target-memory", with_cache, "-ctk", "q8_0", "-ctv", "q8_0")["low_layers"]) == 12
    alone = cli(*ask, "--low-layers", 2, "-ctk", "q8_0")
    assert "can only be used with --target-memory" in alone.stderr
    best = cli(*ask, "--target-memory", "20MiB", "--plan", "best", "--eval", "x.jsonl", "--types", "Q2_K,Q4_K")
    assert best.returncode == 2
