"""Answers prompts about images with libllama and libmtmd. Run as a child process by `ask.Runner`: a failed assertion in
either library aborts the process it happens in.

Reads a JSON object a line from stdin: {"prompt", "image": path or null, "max_tokens"}; writes one a line to stdout:
{"text", "tokens", "n_prompt"} or {"error"}. The first line out is {"ready": true}.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp as mtmd

N_BATCH = 512


class WorkerError(Exception):
    """Something in libllama or libmtmd said no; the message says what."""


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _quiet(level: int, text: bytes, data: Any) -> None:
    """Only errors (level 4 in ggml.h) are worth a line on stderr."""
    if level == 4:
        sys.stderr.write(text.decode("utf-8", "replace"))


class Model:
    """A text model, and its mmproj where given, loaded for greedy answers."""

    def __init__(self, model: Path, mmproj: Path | None, threads: int, n_ctx: int) -> None:
        llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
        mtmd.mtmd_helper_log_set(_quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(model).encode(), options)
        if not self.model:
            raise WorkerError(f"libllama cannot load {model.name}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        context = llama_cpp.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch = n_ctx, N_BATCH, N_BATCH
        context.n_threads = context.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        if not self.context:
            raise WorkerError(f"libllama cannot make a context of {n_ctx} tokens for {model.name}")
        self.mtmd = None
        if mmproj is not None:
            vision = mtmd.mtmd_context_params_default()
            vision.n_threads, vision.print_timings, vision.warmup = threads, False, False
            self.mtmd = mtmd.mtmd_init_from_file(str(mmproj).encode(), self.model, vision)
            if not self.mtmd:
                raise WorkerError(f"libmtmd cannot load {mmproj.name} for {model.name}")
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.n_ctx = n_ctx
        self.template = llama_cpp.llama_model_chat_template(self.model, None)

    def prompt_text(self, prompt: str, has_image: bool) -> str:
        """The prompt in the file's own chat template, with libmtmd's marker where the image goes."""
        content = (mtmd.mtmd_default_marker().decode() if has_image else "") + prompt
        if not self.template:
            return content
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        # The tokenizer adds the BOS token itself where the model wants one.
        return environment.from_string(self.template.decode()).render(
            messages=[{"role": "user", "content": content}], add_generation_prompt=True, bos_token="", eos_token=""
        )

    def answer(self, prompt: str, image: str | None, max_tokens: int) -> dict[str, Any]:
        """Greedy answer: text, token ids and the prompt's length in tokens."""
        if image is not None and self.mtmd is None:
            raise WorkerError("an image was given and no mmproj")
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        text = self.prompt_text(prompt, image is not None)
        n_prompt, position = self._read_media(text, image) if self.mtmd else self._read_text(text)
        tokens: list[int] = []
        batch = llama_cpp.llama_batch_init(1, 0, 1)
        try:
            while len(tokens) < max_tokens and position < self.n_ctx:
                token = int(np.argmax(self.logits()))
                if llama_cpp.llama_vocab_is_eog(self.vocab, token):
                    break
                tokens.append(token)
                batch.n_tokens, batch.token[0], batch.pos[0] = 1, token, position
                batch.n_seq_id[0], batch.seq_id[0][0], batch.logits[0] = 1, 0, True
                if llama_cpp.llama_decode(self.context, batch):
                    raise WorkerError("libllama failed to decode a token")
                position += 1
        finally:
            llama_cpp.llama_batch_free(batch)
        return {"text": self._text(tokens), "tokens": tokens, "n_prompt": n_prompt}

    def logits(self) -> np.ndarray:
        """float32 [n_vocab] behind the last token."""
        pointer = llama_cpp.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(pointer, (self.n_vocab,))

    def _read_media(self, text: str, image: str | None) -> tuple[int, int]:
        from PIL import Image

        raw = text.encode()
        given = mtmd.mtmd_input_text(text=raw, text_len=len(raw), add_special=True, parse_special=True)
        bitmaps = []
        if image is not None:
            with Image.open(image) as opened:
                picture = opened.convert("RGB")
            pixels = np.ascontiguousarray(np.asarray(picture))
            data = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
            bitmaps.append(mtmd.mtmd_bitmap_init(picture.width, picture.height, data))
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            array = (mtmd.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
            if code := mtmd.mtmd_tokenize(self.mtmd, chunks, ctypes.byref(given), array, len(bitmaps)):
                raise WorkerError(f"libmtmd failed to tokenize the prompt (code {code})")
            n_prompt = int(mtmd.mtmd_helper_get_n_tokens(chunks))
            self._check_room(n_prompt)
            position = llama_cpp.llama_pos(0)
            code = mtmd.mtmd_helper_eval_chunks(
                self.mtmd, self.context, chunks, 0, 0, N_BATCH, True, ctypes.byref(position)
            )
            if code:
                raise WorkerError(f"libmtmd failed to read the prompt (code {code})")
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                mtmd.mtmd_bitmap_free(bitmap)
        return n_prompt, position.value

    def _read_text(self, text: str) -> tuple[int, int]:
        raw = text.encode()
        tokens = (llama_cpp.llama_token * (len(raw) + 8))()
        n = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), tokens, len(tokens), True, True)
        self._check_room(n)
        for at in range(0, n, N_BATCH):
            part = (llama_cpp.llama_token * min(N_BATCH, n - at))(*tokens[at : min(at + N_BATCH, n)])
            if llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(part, len(part))):
                raise WorkerError("libllama failed to read the prompt")
        return n, n

    def _check_room(self, n: int) -> None:
        if n >= self.n_ctx:
            raise WorkerError(f"the prompt has {n} tokens, the context {self.n_ctx}")

    def _text(self, tokens: list[int]) -> str:
        if not tokens:
            return ""
        buffer = ctypes.create_string_buffer(64 * len(tokens) + 64)
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        n = llama_cpp.llama_detokenize(self.vocab, array, len(tokens), buffer, len(buffer), False, True)
        return buffer.raw[: max(n, 0)].decode("utf-8", "replace")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--mmproj", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ctx", type=int, default=4096)
    args = parser.parse_args()
    # The libraries may print to stdout; answers go to the original one.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        model = Model(args.model, args.mmproj, args.threads, args.ctx)
    except WorkerError as failure:
        out.write(json.dumps({"error": str(failure)}) + "\n")
        raise SystemExit(1) from None
    out.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        wanted = json.loads(line)
        try:
            reply = model.answer(wanted["prompt"], wanted.get("image"), int(wanted.get("max_tokens", 64)))
        except (WorkerError, OSError) as failure:
            reply = {"error": str(failure)}
        out.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
