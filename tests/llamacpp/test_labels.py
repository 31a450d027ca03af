"""Names as other people's programs read them, each by its published rule, and what headers say."""

import re
from dataclasses import replace

import gguf
import pytest

from luq_gguf.core.types import STOCK, Plan
from luq_gguf.llamacpp import labels
from luq_gguf.llamacpp.gguf import metadata, mmproj, reader, validate

# What the Hub knows in a file's name (@huggingface/gguf 0.4.6).
HUB = (
    "F32", "F16", "Q4_0", "Q4_1", "Q4_1_SOME_F16", "Q4_2", "Q4_3", "Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M",
    "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS",
    "IQ1_S", "IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16", "TQ1_0", "TQ2_0", "MXFP4_MOE",
    "NVFP4", "Q1_0", "Q2_K_XL", "Q3_K_XL", "Q4_K_XL", "Q5_K_XL", "Q6_K_XL", "Q8_K_XL",
)  # fmt: skip
LOWS = ("IQ1_S", "IQ1_M", "IQ2_XXS", "Q2_K", "Q3_K", "Q4_0", "IQ4_NL", "TQ1_0")
HIGHS = ("Q4_K_M", "Q4_K_S", "Q5_K_M", "Q6_K", "Q8_0", "Q3_K_M", "Q4_0", "IQ4_XS", "MXFP4_MOE", "Q4_K")


def plan(low="IQ1_M", high="Q4_K_M", n_low=6, bpw=3.4, ranking="entropy"):
    types = {"blk.0.ffn_up.weight": low, "blk.1.ffn_up.weight": "Q5_K", "blk.1.attn_norm.weight": "F32"}
    return Plan(low, high, ranking, tuple(range(n_low)), types, 9, 10, bpw)


def shown_on_the_hub(name):
    return re.findall(rf"(?:UD-)?(?:{'|'.join(HUB)})(?:_[A-Z]+)?", name.upper())[-1]


def found_by(tag, names):
    """What `-hf REPO:TAG` takes (common/download.cpp), or `-hf REPO` without a tag."""
    for part in [tag] if tag else ["Q4_K_M", "Q8_0"]:
        for name in sorted(names):
            if "imatrix" not in name.split("/")[-1] and re.search(f"{part}[.-]", name, re.IGNORECASE):
                return name
    return None if tag else sorted(names)[0]


@pytest.mark.parametrize("low", LOWS)
@pytest.mark.parametrize("high", HIGHS)
def test_beside_plain_files_of_both_types_every_program_finds_each(low, high):
    luq = labels.file_name("M-7B", plan(low, high, 12, 3.4))
    more = labels.file_name("M-7B", plan(low, high, 6, 4.1))
    plain = [f"M-7B-{kind}.gguf" for kind in (low, high)]
    belongs = [f"{labels.folder_of(name)}/imatrix.gguf" for name in (luq, more)]
    names = [luq, more, *plain, *belongs]
    assert found_by(labels.tag_of(luq), names) == luq
    assert found_by(labels.tag_of(more), names) == more
    assert (found_by("LUQ12", names), found_by("LUQ6", names)) == (luq, more)
    for kind, name in zip((low, high), plain, strict=True):
        assert found_by(kind, names) == name
    shown = shown_on_the_hub(luq)
    assert shown == f"{labels.label(plan(low, high, 12, 3.4))}_LUQ"
    assert found_by(shown, names) in (luq, more)
    assert shown.removesuffix("_LUQ") not in (high, labels.label(plan(low, high, 6, 4.1)))
    assert all(re.findall("|".join(HUB), f"/{name}") == [] for name in belongs)


def test_names_say_rule_count_and_types():
    assert labels.file_name("M", plan()) == "M-LUQ6-IQ1M-Q4KM-IQ3_XS_LUQ.gguf"
    assert labels.file_name("M", plan(ranking="random")) == "M-LUQ6-random-IQ1M-Q4KM-IQ3_XS_LUQ.gguf"
    best = plan("IQ3_XXS", "Q4_K_M", 1, 3.9, "best")
    assert labels.file_name("M", best) == "M-LUQ-best-IQ3XXS-Q5K-Q3_K_M_LUQ.gguf"
    assert labels.folder_of("M-LUQ6-IQ1M-Q4KM-IQ3_XS_LUQ.gguf") == "M-LUQ6-IQ1M-Q4KM"
    assert labels.folder_of("M-LUQ6-IQ1_M-Q4_K_M.gguf") == "M-LUQ6-IQ1_M-Q4_K_M", "as an older version named it"
    assert labels.tag_of("M-LUQ6-IQ1_M-Q4_K_M.gguf") == "LUQ6-IQ1_M-Q4_K_M"
    assert labels.file_name("M", best, with_bits=True) == "M-LUQ-best-IQ3XXS-Q5K-3.90bpw-Q3_K_M_LUQ.gguf"
    stock = labels.file_name("M-7B", plan(high="Q4_K_M", n_low=0, ranking=STOCK))
    assert (stock, labels.folder_of(stock), labels.tag_of(stock)) == ("M-7B-Q4_K_M.gguf", "M-7B-Q4KM", "Q4_K_M")


def test_the_file_type_is_exact_for_stock_files_and_marked_as_guessed_for_others():
    q4_k_m, iq3_xs = int(gguf.LlamaFileType.MOSTLY_Q4_K_M), int(gguf.LlamaFileType.MOSTLY_IQ3_XS)
    assert labels.file_type(plan(n_low=0)) == q4_k_m
    assert labels.file_type(plan(high="Q4_K", n_low=0)) == q4_k_m
    assert labels.file_type(replace(plan(ranking=STOCK, n_low=0))) == q4_k_m
    assert labels.file_type(plan()) == iq3_xs | 1024
    assert labels.file_type(plan(ranking="best", n_low=0)) == iq3_xs | 1024


def test_headers_of_all_plans_of_a_model_have_the_predicted_size():
    origin = {"general.license": "mit"}
    for made in (plan(), plan("Q2_K", "Q6_K", 28, 5.0), plan(ranking="best")):
        entries = labels.of_plan(made, "a" * 24, origin)
        present = {"general.file_type": 1, "general.quantized_by": "someone"}
        assert metadata.growth(present, entries) == metadata.growth(present, labels.of_same_size(origin))


def test_a_key_is_put_into_a_finished_file_and_nothing_else_changes(converted, tmp_path):
    before = reader.read(converted.mmproj)
    path = tmp_path / "mmproj.gguf"
    path.write_bytes(converted.mmproj.read_bytes())
    metadata.add(path, {"luq.note": "ä", "luq.number": 7, "luq.flag": True})
    after = reader.read(path)
    assert after.metadata == before.metadata | {"luq.note": "ä", "luq.number": 7, "luq.flag": True}
    assert after.tensors == before.tensors
    data = [file.read_bytes()[info.header_bytes :] for file, info in ((converted.mmproj, before), (path, after))]
    assert data[0] == data[1]
    assert validate.check(path).ours["luq.note"] == "ä"


def test_both_halves_name_the_same_checkpoint_and_the_header_what_the_file_is(converted):
    text, vision = reader.read(converted.model).metadata, reader.read(converted.mmproj).metadata
    assert text["luq.checkpoint"] == vision["luq.checkpoint"]
    assert text["luq.low_layers"] == 6
    assert text["general.quantized_by"] == "luq-gguf"
    assert text["general.file_type"] & 1024
    assert mmproj.belong_together(converted.model, converted.mmproj)
    assert mmproj.belong_together(converted.f16, converted.mmproj), "the converter's own file names no checkpoint"
