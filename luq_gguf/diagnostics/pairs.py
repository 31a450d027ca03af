"""Which projectors the pinned llama.cpp's converter writes for which text architectures (its classes under
conversion/). libmtmd itself compares widths only."""

from __future__ import annotations

# Projectors that are not here (pixtral, internvl, idefics3, lightonocr, mlp and older ones) go with many text models.
_MADE_FOR = {
    "cogvlm": ("cogvlm",),
    "deepseek4v": ("deepseek4",),
    "deepseekocr": ("deepseek2-ocr",),
    "deepseekocr2": ("deepseek2-ocr",),
    "dots3note_v": ("dots3note",),
    "exaone4_5": ("exaone4",),
    "gemma3": ("gemma3",),
    "gemma3nv": ("gemma3n",),
    "gemma4uv": ("gemma4",),
    "gemma4v": ("gemma4",),
    "glm4v": ("glm4", "glm4moe"),
    "glm5v": ("glm5-next",),
    "hunyuanvl": ("hunyuan_vl",),
    "kimik25": ("deepseek2",),
    "kimivl": ("deepseek2",),
    "lfm2": ("lfm2", "lfm2moe"),
    "ling3vl": ("bailingmoe3",),
    "llama4": ("llama4",),
    "mimovl": ("mimo2",),
    "minicpmv4_6": ("qwen35",),
    "minimax_m3": ("minimax-m3",),
    "muse-glimmer": ("muse-glimmer",),
    "paddleocr": ("paddleocr",),
    "phi4": ("phi3",),
    "qwen2.5o": ("qwen2vl",),
    "qwen2.5vl_merger": ("qwen2vl",),
    "qwen2vl_merger": ("qwen2vl", "llama"),  # the llama is Sarashina2-Vision's
    "qwen3a": ("qwen3vl", "qwen3vlmoe"),
    "qwen3vl_merger": ("qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen4exp"),
    "step3vl": ("step35", "qwen3"),
    "youtuvl": ("deepseek2",),
}
# Text models that take three positions for a token of a picture, and so a projector that knows rows and columns.
_OWN_ALONE = ("hunyuan_vl", "paddleocr", "qwen2vl", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen4exp")


def belong(arch: str, projector: str) -> bool:
    """Return whether a vision half with this projector can be that of a text model of this architecture."""
    made_for = _MADE_FOR.get(projector)
    return arch in made_for if made_for else arch not in _OWN_ALONE
