"""What a file's chat template cannot place is refused by the name of the model and of the line."""

import gguf
import pytest

from luq_gguf.core.errors import EvaluationError
from luq_gguf.core.types import Sample
from luq_gguf.evaluation.context import check_context


def test_a_file_whose_template_places_one_picture_is_refused_by_name_before_it_is_loaded(tmp_path):
    path = tmp_path / "one.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("One Eye")
    writer.add_chat_template(
        "{% if messages[0].content[0].type == 'image' %}<image>{% endif %}{{ messages[0].content[-1].text }}"
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    samples = {4: Sample("which?", (tmp_path / "a.png", tmp_path / "b.png"), (), 5)}
    reason = r"q\.jsonl, line 5: One Eye cannot take 2 images in 1 turn, because .*it places 1 of 2 images"
    with pytest.raises(EvaluationError, match=reason) as caught:
        check_context(path, None, "q.jsonl", samples, n_ctx=256, max_tokens=32)
    assert caught.value.exit_code == 2
