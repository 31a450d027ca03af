"""Chat templates as checkpoints have them: where they lie, what they take, and what happens to the image token."""

import json
import shutil
from pathlib import Path

import pytest

from luq_gguf.core.chat_date import CHAT_DATE
from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.turns import Turn, n_pictures, prompt_turns
from luq_gguf.core.types import Sample
from luq_gguf.hf import model as hf_model
from luq_gguf.hf import prompts
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.hf.processor import load_processor
from luq_gguf.llamacpp.runtime import chat_template

MODELS = Path(__file__).parents[1] / "models"
IMAGE = {"tiny-qwen2.5-vl": "<|vision_start|><|image_pad|><|vision_end|>", "tiny-llava-1.5": "<image>"}
CONCATENATES = "{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endfor %}"
KNOWS_NO_IMAGE = (
    "[INST] {% for c in messages[0].content %}{% if c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %} [/INST]"
)
STRINGS = {
    "concatenates": CONCATENATES,
    "writes lists out": "{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}",
    "a method of strings": "{% for m in messages %}[INST] {{ m.content.strip() }} [/INST]{% endfor %}",
    "a filter": "{% for m in messages %}[INST] {{ m.content | trim }} [/INST]{% endfor %}",
    "wants a string": "{% if messages[0].content is not string %}{{ raise_exception('a string, please') }}{% endif %}"
    "[INST] {{ messages[0].content }} [/INST]",
    "knows no image": KNOWS_NO_IMAGE,
    "generation": "{% generation %}{% endgeneration %}" + CONCATENATES,
}
SAMPLE, TEXT = Sample("what is it?", (Path("a.png"),), ("red",)), Sample("what is it?", (), ("red",))


@pytest.fixture(scope="module")
def processor(tiny_model):
    """A trained model's processor; tests give it other templates."""
    return load_processor(tiny_model)


@pytest.fixture
def copy(tiny_model, tmp_path):
    """A trained model's folder, to be changed."""
    folder = shutil.copytree(tiny_model, tmp_path / tiny_model.name, ignore=lambda *_: ["model.safetensors"])
    (folder / "model.safetensors").symlink_to(tiny_model / "model.safetensors")
    return folder


def change(path, **new):
    path.write_text(json.dumps(json.loads(path.read_text()) | new))


def checked(folder):
    checkpoint = open_checkpoint(str(folder))
    return prompts.check(checkpoint, hf_model.meta_model(checkpoint))


@pytest.mark.parametrize("template", STRINGS.values(), ids=STRINGS)
def test_a_template_that_places_no_image_gets_the_token_as_text(processor, tiny_model, template, monkeypatch):
    monkeypatch.setattr(processor, "chat_template", template)
    assert prompts.chat_text(processor, SAMPLE) == f"[INST] {IMAGE[tiny_model.name]}what is it? [/INST]red"
    assert prompts.chat_text(processor, TEXT) == "[INST] what is it? [/INST]red"


def test_without_a_template_the_image_stands_before_the_prompt(copy):
    (copy / "chat_template.jinja").unlink()
    assert checked(copy) is None
    processor = load_processor(copy)
    assert prompts.chat_text(processor, SAMPLE) == f"{IMAGE[copy.name]}what is it? red"
    assert prompts.chat_text(processor, TEXT) == "what is it? red"


@pytest.mark.parametrize(
    "place", ["chat_template.json", "tokenizer", "list", "processor", "additional", "list without a default"]
)
def test_a_template_is_found_wherever_it_lies(copy, place):
    path = copy / "chat_template.jinja"
    wanted, template = prompts.chat_text(load_processor(copy), SAMPLE), path.read_text()
    if place == "additional":
        (copy / "additional_chat_templates").mkdir()
        (copy / "additional_chat_templates/tool_use.jinja").write_text("x" + template)
    else:
        path.unlink()
    named = [{"name": "default", "template": template}, {"name": "tool_use", "template": "x" + template}]
    if place == "chat_template.json":
        (copy / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    elif place == "processor":
        change(copy / "processor_config.json", chat_template=template)
    elif place != "additional":
        lists = {"tokenizer": template, "list": named, "list without a default": [named[0] | {"name": "chat"}]}
        change(copy / "tokenizer_config.json", chat_template=lists[place])
    assert checked(copy) == template
    assert prompts.chat_text(load_processor(copy), SAMPLE) == wanted


@pytest.mark.parametrize("placeholder", ["<image>", "<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>"])
def test_a_prompt_that_holds_a_placeholder_is_the_prompt_without_it(processor, placeholder):
    for sample in (SAMPLE, TEXT):
        held = Sample(f"{placeholder}\n{sample.prompt}", sample.images, sample.answers)
        assert prompts.chat_text(processor, held) == prompts.chat_text(processor, sample)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('only with a system turn') }}", "only with a system turn"),
        ("{% for %}", "cannot be rendered: TemplateSyntaxError"),
        ("no messages at all", "drops the prompt"),
        ("{% for m in messages %}{{ m.content }}", "TemplateSyntaxError"),
        (
            "{{ messages[0].content[-1].text }} <|image_pad|><|image_pad|><image><image>",
            "cannot put a picture into a prompt",
        ),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(copy, template, words):
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(CheckpointError, match=words) as caught:
        checked(copy)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_text_model_takes_strings_first_and_lists_where_it_must(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODELS / "tiny-qwen2.5-vl")
    for template in (CONCATENATES, KNOWS_NO_IMAGE):
        tokenizer.chat_template = template
        assert prompts.chat_text(tokenizer, TEXT) == "[INST] what is it? [/INST]red"


@pytest.mark.parametrize("form", ["%d %b %Y", "%Y-%m-%d", "%A, %H:%M:%S"])
def test_a_template_with_the_date_is_rendered_on_the_same_day_in_calibration_and_in_evaluation(
    processor, form, monkeypatch
):
    template = f"{{{{ strftime_now({form!r}) }}}} [INST] {{{{ messages[0].content[0].text }}}} [/INST]"
    monkeypatch.setattr(processor, "chat_template", template)
    calibrated = prompts.chat_text(processor, Sample("what is it?"))
    assert calibrated == f"{CHAT_DATE:{form}} [INST] what is it? [/INST]"
    assert calibrated == chat_template.render(template, "what is it?", None)


def test_a_templates_bos_token_is_not_put_before_it_once_more(models):
    processor = load_processor(models / "tiny-llava-1.5")
    bos = processor.tokenizer.bos_token
    processor.chat_template = "{{ bos_token }}" + CONCATENATES
    texts = [text := prompts.chat_text(processor, TEXT), text.removeprefix(bos)]
    assert texts[0].startswith(bos)
    for text in texts:  # the tokenizer puts one before a text that has none
        ids = processor(text=[text], **prompts.token_options(processor, text))["input_ids"][0]
        assert ids.count(processor.tokenizer.bos_token_id) == 1
    assert prompts.token_options(processor.tokenizer, texts[1]) == {"add_special_tokens": False}


DIALOGUE = (
    Turn("user", (None, "what is it?")),
    Turn("assistant", ("a circle",)),
    Turn("user", ("and ", None, None, "these?")),
)


@pytest.mark.parametrize("template", [None, CONCATENATES], ids=["its own", "strings"])
def test_images_and_turns_stand_where_the_file_has_them_too(processor, tiny_model, template, monkeypatch):
    template = template or processor.chat_template
    monkeypatch.setattr(processor, "chat_template", template)
    for turns in (DIALOGUE, DIALOGUE[2:], prompt_turns("these?", 2)):
        text = prompts.chat_text(processor, Sample.of_turns(turns, [Path("a.png")] * n_pictures(turns), ("red",)))
        assert text.endswith("red")
        in_file = chat_template.render_turns(template, turns, "@", processor.tokenizer.bos_token)
        assert text.replace(IMAGE[tiny_model.name], "@") == in_file + "red"


def test_a_family_that_cannot_place_several_images_or_turns_is_refused_by_name(copy):
    checkpoint = open_checkpoint(str(copy))
    several, turned = (
        Sample("these?", (Path("a.png"), Path("b.png")), (), 7),
        Sample.of_turns(DIALOGUE, [Path("a")] * 3),
    )
    prompts.check_samples(checkpoint, [SAMPLE, several, turned], "set.jsonl")
    (copy / "chat_template.jinja").write_text(
        f"{{% if messages[0].content[0].type == 'image' %}}{IMAGE[copy.name]}{{% endif %}}"
        "{{ messages[0].content[-1].text }}"
    )
    prompts.check_samples(checkpoint, [SAMPLE], "set.jsonl")
    for sample, reason in (
        (several, f"set.jsonl, line 7: {copy.name} cannot take 2 images in 1 turn, because .*it places 1 of 2 images"),
        (turned, f"set.jsonl: {copy.name} cannot take 3 images in 3 turns, because .*it places 1 of 3 images"),
    ):
        with pytest.raises(CheckpointError, match=reason) as caught:
            prompts.check_samples(checkpoint, [SAMPLE, sample], "set.jsonl")
        assert caught.value.exit_code == 2
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="no chat template, which would place the turns"):
        prompts.check_samples(checkpoint, [turned], "set.jsonl")
