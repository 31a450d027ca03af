import pytest

from luq_gguf.llamacpp.runtime.chat_template import render

QWEN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{% if m['content'] is string %}"
    "{{ m['content'] | trim }}{% else %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<start_of_image>"
    "{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}{% endif %}<end_of_turn>\n{% endfor %}"
    "{{ '<start_of_turn>model\n' }}"
)
STRINGS = "{% for m in messages %}[INST] {{ m['content'].strip() }} [/INST]{% endfor %}"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, "@what is it?"),
        (QWEN, "<|im_start|>user\n@what is it?<|im_end|>\n<|im_start|>assistant\n"),
        (LLAVA, "USER: @\nwhat is it? ASSISTANT:"),
        (GEMMA, "<start_of_turn>user\n@what is it?<end_of_turn>\n<start_of_turn>model\n"),
        (STRINGS, "[INST] @what is it? [/INST]"),
    ],
    ids=["no template", "qwen", "llava", "gemma", "strings only"],
)
def test_an_image_becomes_the_marker_and_its_line_break_stays(template, expected):
    assert render(template, "what is it?", "@") == expected
    assert render(template, "what is it?", None) == expected.replace("@\n", "").replace("@", "")


def test_bos_is_written_where_the_tokenizer_adds_none():
    assert render(GEMMA, "x", None, bos="<bos>").startswith("<bos><start_of_turn>")


def test_templates_run_in_a_sandbox():
    with pytest.raises(ValueError, match="cannot be rendered"):
        render("{{ messages.__class__.__mro__[1].__subclasses__() }}", "x", None)
    with pytest.raises(ValueError, match="no system please"):
        render("{{ raise_exception('no system please') }}", "x", None)
