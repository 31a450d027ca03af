"""What types are foretold to cost a trained model, against what they do to it; kept, resumed, and refused."""

from dataclasses import replace

import pytest
import torch

from luq_gguf.calibration import backward_pass, batches, foretelling, stage
from luq_gguf.calibration.gradients import DrawnGradients
from luq_gguf.core.errors import CalibrationError
from luq_gguf.hf import model as hf_model
from luq_gguf.hf import sight
from luq_gguf.hf.head import Head
from luq_gguf.llamacpp import sampled_rows
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import open_session

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")

NAMES = ("blk.1.attn_v.weight", "blk.5.attn_k.weight")  # of 128 rows each: all of them are sampled
TYPES = {name: {"Q2_K"} for name in (*NAMES, "blk.5.ffn_up.weight", "token_embd.weight", "output.weight")}


@pytest.fixture(scope="module")
def opened(small, tiny_model, tmp_path_factory):
    """The run, its session and its profile."""
    copy = small.copy(tmp_path_factory.mktemp("foretold") / "run")
    with RunFolder(copy.folder) as run:
        profile = serialization.read_profile(copy.folder / "profile.json")
        yield copy, open_session(run, str(tiny_model)).with_dataset(profile), profile


@pytest.fixture(scope="module")
def foretold(opened):
    run, session, profile = opened
    return foretelling.make_foretold(session, profile, run.f16, TYPES)


def scored_logits(model, of_batches, walk):
    head, rows = Head(model), []
    with torch.no_grad():
        for batch in of_batches:
            hidden = model.base_model(**batch.inputs, use_cache=False).last_hidden_state
            rows.append(head.logits(hidden[walk.scored(batch)]).log_softmax(-1))
    return torch.cat(rows)


def test_it_is_what_a_matrix_costs_when_it_is_changed(opened, foretold, tmp_path):
    _, session, profile = opened
    calibration = foretelling.calibrated_with(session, profile)
    data = backward_pass.scored_samples(stage.read_data(session.run, calibration, session.spec.checkpoint))
    model, processor = hf_model.load_reference(session.spec.checkpoint, replace(stage.place(session), exact=True))
    walk = DrawnGradients(model, 1, 0, sight.image_ids(model, processor))
    of_batches = list(batches.batches(model, processor, data))
    before = scored_logits(model, of_batches, walk)
    assert len(before) == foretold.n_positions
    assert len(data.multimodal) == foretold.n_samples
    sampled_rows.make(opened[0].f16, session.imatrix, {name: {"Q2_K"} for name in NAMES}, tmp_path)
    for name in NAMES:
        rows = sampled_rows.read(tmp_path, name)
        assert len(rows.numbers) == rows.n_rows
        weight = model.get_submodule(session.spec.matrices[name].module).weight
        kept = weight.detach().clone()
        places = torch.cdist(torch.from_numpy(rows.weights), kept).argmin(1)
        with torch.no_grad():
            weight[places] += torch.from_numpy(rows.changes[0]).float()
            after = scored_logits(model, of_batches, walk)
            weight.copy_(kept)
        exact = float((before.exp() * (before - after)).sum(-1).mean())
        assert exact / 2 < foretold.klds[name]["Q2_K"] < 2 * exact, name


def test_embeddings_and_head_are_seen_and_more_bits_cost_less(opened, foretold):
    run, session, profile = opened
    assert foretold.unseen == ()
    assert foretold.klds.keys() == TYPES.keys()
    assert foretold.klds["output.weight"]["Q2_K"] > 10 * foretold.klds["blk.5.attn_k.weight"]["Q2_K"]
    more = foretelling.make_foretold(session, profile, run.f16, {NAMES[0]: {"Q4_K"}})
    assert more.klds[NAMES[0]]["Q4_K"] < more.klds[NAMES[0]]["Q2_K"] / 4
    assert more.klds[NAMES[1]] == foretold.klds[NAMES[1]], "the same samples have the same directions"
    assert not (run.folder / ".work" / "rows").exists()


def test_an_interrupted_pass_goes_on_where_it_stopped(opened, foretold, monkeypatch):
    run, session, profile = opened
    path = run.folder / "fisher.json"
    path.unlink()
    monkeypatch.setattr(backward_pass, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(batches, "BATCH_TOKENS", 256)
    small_batches = foretelling.make_foretold(session, profile, run.f16, TYPES)
    for name, of_types in foretold.klds.items():
        assert small_batches.klds[name] == pytest.approx(of_types, rel=0.05), "batches are rounded in another way"
    whole = path.read_bytes()
    path.unlink()
    seen = []

    class StopError(Exception):
        pass

    def stopping(what, done, total):
        if what == "backward pass: samples":
            seen.append(done)
            if len(seen) == 4:
                raise StopError

    def going_on(what, done, total):
        if what == "backward pass: samples":
            seen.append(done)

    stopped, again = (replace(session, reporter=replace(session.reporter, progress=p)) for p in (stopping, going_on))
    with pytest.raises(StopError):
        foretelling.make_foretold(stopped, profile, run.f16, TYPES)
    assert not path.exists()
    n_done = seen[-2]  # what was being added when it stopped is repeated
    seen.clear()
    foretelling.make_foretold(again, profile, run.f16, TYPES)
    assert seen[0] == n_done > 0
    assert path.read_bytes() == whole


def test_other_samples_than_the_profiles_are_refused(opened):
    run, session, profile = opened
    other = replace(profile, calibration=replace(profile.calibration, sha256="0" * 64))
    with pytest.raises(CalibrationError, match="not what the run was profiled with"):
        foretelling.make_foretold(session, other, run.f16, TYPES)
