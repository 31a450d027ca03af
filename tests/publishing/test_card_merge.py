"""The generated part of a card in one that a person, or another file, has written around it."""

import pytest
import yaml

from luq_gguf.core.errors import UploadError
from luq_gguf.publishing import card_merge

OURS = "---\nbase_model: a/b\ntags: [luq]\nlicense: mit\nmodel-index:\n- name: six\n---\n# Six\n\nText.\n"
OTHER = "---\nbase_model: c/d\ntags: [luq, vision]\nmodel-index:\n- name: twelve\n---\n# Twelve\n\nMore.\n"


def merge(present, ours=OURS, key="M-LUQ6", overwrite=False):
    return card_merge.merge(present, ours, key, "me/files", overwrite=overwrite).text


def metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_a_first_card_has_one_section_and_is_the_same_when_it_is_made_again():
    first = merge(None)
    assert first.count("<!-- luq-gguf:") == 2
    assert metadata(first)["license"] == "mit"
    assert merge(first) == first


def test_words_around_the_section_and_metadata_are_kept():
    edited = merge(None).replace("license: mit", "license: apache-2.0  # asked them").replace("Text.", "Text.")
    edited = edited.replace("<!-- luq-gguf: begin", "My words.\n\n<!-- luq-gguf: begin") + "\nAnd these.\n"
    again = merge(edited, OURS.replace("Text.", "Newer text."))
    assert "My words." in again
    assert again.endswith("And these.\n")
    assert "# asked them" in again, "metadata that need no change are not written again"
    assert "Newer text." in again
    assert "\nText." not in again


def test_a_second_file_gets_a_section_of_its_own():
    both = merge(merge(None), OTHER, "M-LUQ12")
    assert "# Six" in both
    assert "# Twelve" in both
    assert metadata(both)["base_model"] == ["a/b", "c/d"]
    assert metadata(both)["tags"] == ["luq", "vision"]
    assert [entry["name"] for entry in metadata(both)["model-index"]] == ["six", "twelve"]
    newer = merge(both, OURS.replace("Text.", "Newer."))
    assert "More." in newer
    assert newer.count("# Six") == 1


@pytest.mark.parametrize("text", ["", "No metadata.\n", "---\nlicense: mit\n---\nA card.\n", "---\n---\r\nOdd.\r\n"])
def test_a_card_that_somebody_else_wrote_gets_the_section_at_its_end(text):
    card = merge(text)
    assert card.rstrip().endswith("<!-- luq-gguf: end M-LUQ6 -->")
    assert all(word in card for word in text.replace("-", "").split())


def test_an_edited_section_is_refused_until_it_may_be_overwritten():
    edited = merge(None).replace("Text.", "Better text.")
    with pytest.raises(UploadError, match="M-LUQ6 in README.md of me/files was edited") as caught:
        merge(edited)
    assert "--overwrite-card" in caught.value.hint
    assert "Better" not in merge(edited, overwrite=True)
    assert "Better" in merge(edited, OTHER, "M-LUQ12"), "another file's section is not this one's business"


@pytest.mark.parametrize("head", ["a: [", "- a list", "a: *b"])
def test_metadata_that_cannot_be_read_is_refused_until_they_may_be_overwritten(head):
    broken = f"---\n{head}\n---\nText of theirs.\n"
    with pytest.raises(UploadError, match="not valid YAML"):
        merge(broken)
    assert metadata(merge(broken, overwrite=True))["license"] == "mit"


def test_one_section_about_several_files_takes_the_place_of_theirs():
    both = "Before.\n\n" + merge(merge(None), OTHER, "M-LUQ12").split("---\n", 2)[2] + "\nBehind.\n"
    ours = OURS.replace("# Six", "# All sizes")
    whole = card_merge.merge(both, ours, "M-LUQ4", "me/files", others=["M-LUQ6", "M-LUQ12"], overwrite=False).text
    assert whole.count("<!-- luq-gguf: begin") == 1
    assert "# Twelve" not in whole
    assert whole.index("Before.") < whole.index("# All sizes") < whole.index("Behind.")
    edited = both.replace("More.", "Much more.")
    with pytest.raises(UploadError, match="about M-LUQ12 in README"):
        card_merge.merge(edited, ours, "M-LUQ4", "me/files", others=["M-LUQ6", "M-LUQ12"], overwrite=False)
