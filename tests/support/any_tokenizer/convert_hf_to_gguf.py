"""The pinned converter, which here takes every byte-level tokenizer for Qwen2's.

It knows such tokenizers by the hash of a sentence's tokens, so a little one of the tests is unknown to it.
LUQ_TEST_CONVERTER is the true converter's path; all else is left to it.
"""

import os
import runpy
import sys
from pathlib import Path

TRUE = Path(os.environ["LUQ_TEST_CONVERTER"])
sys.path.insert(0, str(TRUE.parent))
sys.path.insert(1, str(TRUE.parent / "gguf-py"))
from conversion.base import TextModel  # noqa: E402

TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
runpy.run_path(str(TRUE), run_name="__main__")
