"""Base model and licence in headers that the converter could not fill."""

from luq_gguf.run import provenance

BASE = {
    "general.base_model.count": 1,
    "general.base_model.0.name": "Little-VL",
    "general.base_model.0.organization": "Owner",
    "general.base_model.0.repo_url": "https://huggingface.co/Owner/Little-VL",
}


def test_a_model_of_the_hub_is_its_own_base_and_a_folder_has_the_one_that_was_named():
    assert provenance.entries({"model": "Owner/Little-VL", "revision": "a" * 40}, {}) == BASE
    named = {"model": "/here/little", "base_model": "Owner/Little-VL", "licence": {"license": "mit"}}
    assert provenance.entries(named, {}) == BASE | {"general.license": "mit"}
    assert provenance.entries({"model": "/here/little"}, {}) == {}
    assert provenance.entries({"model": "here/little", "revision": None}, {}) == {}, "a folder, not a Hub id"


def test_what_the_checkpoints_card_says_stays():
    record = {"base_model": "Owner/Little-VL", "licence": {"license": "other", "license_name": "own"}}
    present = {"general.license": "mit", "general.base_model.count": 1}
    assert provenance.entries(record, present) == {}
    licence = {"general.license": "other", "general.license.name": "own"}
    assert provenance.entries(record, {"general.base_model.count": 1}) == licence


def test_texts_that_llama_quantize_does_not_take_are_left_out():
    record = {"licence": {"license": "m" * 128, "license_name": "two\nlines", "license_link": "https://example.com"}}
    assert provenance.entries(record, {}) == {"general.license.link": "https://example.com"}
