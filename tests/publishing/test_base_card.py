"""Licences as base models' cards name them."""

import pytest

from luq_gguf.publishing import card
from luq_gguf.publishing.card import CardContent


@pytest.fixture
def folder(tmp_path):
    def make(metadata):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "README.md").write_text(f"---\n{metadata}---\n")
        return tmp_path / "model"

    return make


def test_several_licences_are_all_named(folder):
    base = card.read_base_card(str(folder("license: [apache-2.0, mit]\n")), None)
    assert base.licence_name == "apache-2.0, mit"
    assert card._licences(base.licence["license"]) == ["apache-2.0", "mit"]
    assert card._licences("mit") == "mit"


def test_a_link_to_a_file_of_the_checkpoint_leads_to_a_file_that_is_sent(folder):
    model = folder("license: other\nlicense_name: own\nlicense_link: LICENSE\n")
    base = card.read_base_card(str(model), None)
    assert "license_link" not in base.licence, "there is none"
    (model / "LICENSE").write_text("All rights.")
    assert card.read_base_card(str(model), None).licence_file == model / "LICENSE"
    model = folder("license: other\nlicense_link: https://example.com/l\n")
    base = card.read_base_card(str(model), None)
    assert (base.licence["license_link"], base.licence_file) == ("https://example.com/l", None)


@pytest.mark.parametrize("link", ["../secret", "/etc/hostname", "sub/../../secret", "missing", "."])
def test_a_link_does_not_lead_out_of_the_folder(folder, link):
    model = folder(f"license: other\nlicense_link: {link}\n")
    (model.parent / "secret").write_text("not theirs")
    base = card.read_base_card(str(model), None)
    assert base.licence_file is None
    assert "license_link" not in base.licence


def test_every_field_of_a_card_is_in_the_template():
    text = card.TEMPLATE.read_text()
    assert [name for name in CardContent.__dataclass_fields__ if f"facts.{name}" not in text] == []
