import pytest

from luq_gguf.core.turns import Turn, prompt_turns
from luq_gguf.llamacpp.runtime.chat_template import render, render_turns

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
WRITES_LISTS_OUT = "{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
JSON = "{% for m in messages %}[INST] {{ m['content'] | tojson }} [/INST]{% endfor %}"
CONCATENATES = "{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endfor %}"
WANTS_A_STRING = (
    "{% if messages[0].content is not string %}{{ raise_exception('a string, please') }}{% endif %}"
    "[INST] {{ messages[0].content }} [/INST]"
)
KNOWS_NO_IMAGE = (
    "{% for m in messages %}[INST] {% for c in m.content %}{% if c.type == 'text' %}{{ c.get('text', '') }}{% endif %}"
    "{% endfor %} [/INST]{% endfor %}"
)
GENERATION = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{%- generation -%}{{ m.content }}{%- endgeneration -%}"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{% set x = '!' %}{% generation %}{% set x = '?' %}{% endgeneration %}{% endif %}"
)
USUAL = (  # what templates with tools, documents and dates begin with
    "{% set ns = namespace(n=0) %}{% if tools is not none %}{% for tool in tools %}{{ tool }}{% endfor %}{% endif %}"
    "{% if documents is defined and documents is not none %}{{ documents[0] }}{% endif %}"
    "{% set now = strftime_now('%Y') %}"
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if ns.n > 9 %}{% break %}{% endif %}"
    "[INST] {{ m.content if m.content is string else m.content[0].text }} [/INST]{% endfor %}"
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
        (WRITES_LISTS_OUT, "[INST] @what is it? [/INST]"),
        (JSON, '[INST] "@what is it?" [/INST]'),
        (CONCATENATES, "[INST] @what is it? [/INST]"),
        (WANTS_A_STRING, "[INST] @what is it? [/INST]"),
        (KNOWS_NO_IMAGE, "[INST] @what is it? [/INST]"),
        (GENERATION, "[INST] @what is it? [/INST]"),
    ],
    ids=[
        "no template",
        "qwen",
        "llava",
        "gemma",
        "strings only",
        "writes lists out",
        "json",
        "concatenates",
        "wants a string",
        "knows no image",
        "generation",
    ],
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


def test_what_templates_begin_with_is_known():
    assert render(USUAL, "what is it?", None) == "[INST] what is it? [/INST]"


def test_white_space_around_a_prompt_does_not_make_a_template_one_of_strings():
    assert render(QWEN, " what is it?\n", "@") == "<|im_start|>user\n@ what is it?\n<|im_end|>\n<|im_start|>assistant\n"
    trims = GEMMA.replace("{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}", "{% if true %}")
    assert (
        render(trims, " what is it?\n", "@") == "<start_of_turn>user\n@what is it?<end_of_turn>\n<start_of_turn>model\n"
    )


def test_json_in_a_template_is_not_escaped_for_html():
    template = "{{ messages[0].content[0].text | tojson }}{{ {'b': 1, 'a': '<ä>'} | tojson(sort_keys=true) }}"
    assert render(template, "<b> & 'ä'", None) == """"<b> & 'ä'"{"a": "<ä>", "b": 1}"""


DIALOGUE = (
    Turn("user", (None, "what is it?")),
    Turn("assistant", ("a dog",)),
    Turn("user", ("and ", None, None, "these?")),
)
ASSISTANTS_ARE_STRINGS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '[A]' + m.content }}{% else %}[U]{% for c in m.content %}"
    "{% if c.type == 'image' %}<|image|>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)
NUMBERED = (
    "{% set ns = namespace(n=0) %}{% for m in messages %}[{{ m.role }}]{% for c in m.content %}"
    "{% if c.type == 'image' %}{% set ns.n = ns.n + 1 %}Picture {{ ns.n }}: <|image|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (QWEN, "<|im_start|>user\n@what is it?<|im_end|>\n<|im_start|>assistant\na dog<|im_end|>\n"
               "<|im_start|>user\nand @@these?<|im_end|>\n<|im_start|>assistant\n"),
        (LLAVA, "USER: @\nwhat is it? ASSISTANT: a dog USER: @\n@\nand  these? ASSISTANT:"),
        (GEMMA, "<start_of_turn>user\n@what is it?<end_of_turn>\n<start_of_turn>assistant\na dog<end_of_turn>\n"
                "<start_of_turn>user\nand@@these?<end_of_turn>\n<start_of_turn>model\n"),
        (CONCATENATES, "[INST] @what is it? [/INST][INST] a dog [/INST][INST] and @@these? [/INST]"),
        (KNOWS_NO_IMAGE, "[INST] @what is it? [/INST][INST] a dog [/INST][INST] and @@these? [/INST]"),
        (ASSISTANTS_ARE_STRINGS, "[U]@what is it?[A]a dog[U]and @@these?"),
        (NUMBERED, "[user]Picture 1: @what is it?[assistant]a dog[user]and Picture 2: @Picture 3: @these?"),
    ],
    ids=["qwen", "llava", "gemma", "concatenates", "knows no image", "assistants are strings", "numbered"],
)  # fmt: skip
def test_images_and_turns_stand_where_the_template_puts_them(template, expected):
    assert render_turns(template, DIALOGUE, "@") == expected


def test_without_a_template_one_turn_is_as_it_is_and_several_are_refused():
    assert render_turns(None, DIALOGUE[2:], "@") == "and @@these?"
    with pytest.raises(ValueError, match="has no chat template, which would place the turns"):
        render_turns(None, DIALOGUE, "@")


@pytest.mark.parametrize(
    ("template", "turns", "reason"),
    [
        (KNOWS_NO_IMAGE.replace("{% for c", "{% if m.content[0].type == 'image' %}<image>{% endif %}{% for c"),
         prompt_turns("these?", 2), "it places 1 of 2 images"),
        ("[INST] {{ messages[0].content }} [/INST]", DIALOGUE, "it drops one of the prompts or images"),
        ("{% for m in messages[::-1] %}[INST] {% for c in m.content %}{{ '<image>' if c.type == 'image' else c.text }}"
         "{% endfor %}{% endfor %}", DIALOGUE, "an image changes the text around it"),
    ],
    ids=["one image", "one turn", "backwards"],
)  # fmt: skip
def test_a_template_that_does_not_place_all_images_and_turns_in_order_is_refused(template, turns, reason):
    with pytest.raises(ValueError, match=reason):
        render_turns(template, turns, "@")
