import numpy as np
import pytest
import torch

from luq_gguf.calibration.reservoir import Reservoir

WIDTH, LAYERS = 3, 2


@pytest.fixture
def make(tmp_path):
    made = []

    def build(capacity: int, name: str = "a", dtype: torch.dtype = torch.float32) -> Reservoir:
        (tmp_path / name).mkdir(exist_ok=True)
        made.append(Reservoir(tmp_path / name, capacity, LAYERS, WIDTH, dtype, seed=0))
        return made[-1]

    yield build
    for reservoir in made:
        reservoir.close()


def feed(reservoir: Reservoir, multimodal: bool, lengths: list[int], batch: int, first_id: int = 0) -> None:
    """Tokens whose vector is (sample, position, layer), in batches of so many samples."""
    for at in range(0, len(lengths), batch):
        ids = tuple(range(first_id + at, first_id + at + len(lengths[at : at + batch])))
        some = lengths[at : at + batch]
        tokens, slots = reservoir.choose(ids, some, multimodal=multimodal)
        rows = [(i, p) for i, n in zip(ids, some, strict=True) for p in range(n)]
        for layer in range(LAYERS):
            vectors = torch.tensor([[*rows[t], layer] for t in tokens], dtype=torch.float32).reshape(-1, WIDTH)
            if len(slots):
                reservoir.write(layer, slots, vectors, multimodal=multimodal)


def held(reservoir: Reservoir, group: str, layer: int = 0) -> set[tuple[float, ...]]:
    return {tuple(row) for row in reservoir.vectors(group, layer).tolist()}


def test_all_tokens_are_kept_while_there_is_room(make):
    reservoir = make(10)
    feed(reservoir, True, [2, 3], batch=1)
    assert reservoir.count("multimodal") == 5
    assert held(reservoir, "multimodal", 1) == {(0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1), (1, 2, 1)}


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_the_choice_does_not_depend_on_batching(make, batch):
    one, other = make(16, "one"), make(16, f"other{batch}")
    feed(one, True, [5] * 40, batch=7)
    feed(other, True, [5] * 40, batch=batch)
    assert held(one, "multimodal") == held(other, "multimodal")
    assert len(held(one, "multimodal")) == 16


def test_layers_hold_the_same_tokens(make):
    reservoir = make(8)
    feed(reservoir, False, [6] * 20, batch=3)
    assert {row[:2] for row in held(reservoir, "text", 0)} == {row[:2] for row in held(reservoir, "text", 1)}


def test_a_pass_repeated_after_an_interruption_changes_nothing(make):
    reservoir = make(8)
    feed(reservoir, True, [4] * 6, batch=2)
    saved = {name: keys.copy() for name, keys in reservoir.keys.items()}
    feed(reservoir, True, [4] * 6, batch=2, first_id=6)
    wanted = held(reservoir, "multimodal")
    for name, keys in saved.items():
        reservoir.keys[name][:] = keys
    feed(reservoir, True, [4] * 6, batch=2, first_id=6)
    assert held(reservoir, "multimodal") == wanted


def test_all_is_a_sample_of_both_modalities_in_their_proportion(make):
    reservoir = make(200)
    feed(reservoir, True, [30] * 30, batch=4)
    feed(reservoir, False, [10] * 30, batch=4, first_id=30)
    found = reservoir.vectors("all", 0)
    assert len(found) == 200
    share = float(np.mean(found[:, 0] < 30))
    assert share == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 200) ** 0.5)


def test_bfloat16_vectors_come_back_as_they_were(make):
    reservoir = make(4, dtype=torch.bfloat16)
    _, slots = reservoir.choose((0,), [2], multimodal=True)
    vectors = torch.tensor([[1.5, -3.0, 70000.0], [0.125, 2.0, 1e-30]], dtype=torch.bfloat16)
    reservoir.write(1, slots, vectors, multimodal=True)
    assert reservoir.vectors("multimodal", 1).tolist() == vectors.float().tolist()
