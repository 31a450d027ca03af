"""libllama and libmtmd through llama-cpp-python's bindings: a loaded model that reads text and images. Used in a child
process only (`worker`): a failed assertion in either library aborts the process it happens in.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp as mtmd
from llama_cpp._ggml import libggml

from luq_gguf.core import atomic
from luq_gguf.core.images import open_rgb
from luq_gguf.core.turns import Turn
from luq_gguf.llamacpp.runtime import chat_template, saved_chunk

N_BATCH = 512  # an image that is read non-causally must fit in one batch


class WorkerError(Exception):
    """A call to libllama or libmtmd failed; the message says how."""


_error_lines: list[str] = []  # errors so far


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _quiet(level: int, text: bytes, data: Any) -> None:
    """Only errors (level 4 in ggml.h) are worth a line on stderr. The first is the reason, others follow from it."""
    if level == 4:
        _error_lines.append(text.decode("utf-8", "replace"))
        sys.stderr.write(_error_lines[-1])


def _why() -> str:
    """The library's own reason, without the function's name that it puts before it; empty where it gave none."""
    words = " ".join(_error_lines[0].split()) if _error_lines else ""
    reason = "".join(character for character in words if character.isprintable())  # it may quote the file
    return f": {re.sub(r'^[a-z_]+: ', '', reason)[:300]}" if reason else ""


def load_plugin(path: Path) -> None:
    """Let ggml load a library of kernels, as llama.cpp's tools do. Call it before the first model is loaded. Raises
    WorkerError."""
    load = libggml.ggml_backend_load
    load.restype = ctypes.c_void_p
    if not load(str(path).encode()):
        raise WorkerError(f"ggml cannot load {path.name}")


class Model:
    """A loaded text model, with its mmproj where one is given; each call begins with an empty context.

    Text is computed `n_batch` tokens at once. `embeddings` is a folder that keeps what the mmproj makes of images.
    `check` lets libllama look at every block of every tensor and reject scales that are not finite. Without `weights`
    none are loaded, so that a header alone can count tokens and render prompts, and nothing else. `image_tokens` are
    the fewest and the most tokens of a picture where its size is dynamic, None for libmtmd's own limits. So many of the
    layers run on a GPU (`gpu_layers`), which the library must be able to use.
    """

    def __init__(
        self,
        model: Path,
        mmproj: Path | None,
        threads: int,
        n_ctx: int,
        n_batch: int,
        embeddings: Path | None = None,
        *,
        check: bool = False,
        weights: bool = True,
        image_tokens: tuple[int | None, int | None] = (None, None),
        gpu_layers: int = 0,
    ) -> None:
        llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
        mtmd.mtmd_helper_log_set(_quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.check_tensors = check
        if gpu_layers:
            if not llama_cpp.llama_supports_gpu_offload():
                raise WorkerError("this build of libllama has no GPU backend")
            options.n_gpu_layers = gpu_layers
        if not weights:
            options.no_alloc, options.load_mode = True, llama_cpp.LLAMA_LOAD_MODE_NONE  # it maps nothing
        self.model = llama_cpp.llama_model_load_from_file(str(model).encode(), options)
        if not self.model:
            raise WorkerError(f"libllama cannot load {model.name}{_why()}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        context = llama_cpp.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch = n_ctx, N_BATCH, N_BATCH
        context.n_threads = context.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, context) if weights else None
        if weights and not self.context:
            raise WorkerError(f"libllama cannot make a context of {n_ctx} tokens for {model.name}")
        self.mtmd = None
        if mmproj is not None:
            vision = mtmd.mtmd_context_params_default()
            vision.n_threads, vision.print_timings, vision.warmup = threads, False, False
            for name, limit in zip(("image_min_tokens", "image_max_tokens"), image_tokens, strict=True):
                if limit is not None:
                    setattr(vision, name, limit)
            self.mtmd = mtmd.mtmd_init_from_file(str(mmproj).encode(), self.model, vision)
            if not self.mtmd:
                raise WorkerError(f"libmtmd cannot load {mmproj.name} for {model.name}{_why()}")
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.n_ctx, self.n_batch = n_ctx, n_batch
        self._embeddings = embeddings
        self.encode_seconds = 0.0  # what the vision half has taken so far
        self.template = llama_cpp.llama_model_chat_template(self.model, None)

    def prompt_text(self, turns: Sequence[Turn]) -> str:
        """Return a conversation in the file's own chat template, with libmtmd's marker where an image goes."""
        template = self.template.decode("utf-8", "replace") if self.template else None
        marker = mtmd.mtmd_default_marker().decode()
        # Where the tokenizer adds the BOS token itself, the template must not.
        adds_bos = llama_cpp.llama_vocab_get_add_bos(self.vocab)
        bos = "" if adds_bos else self._piece(llama_cpp.llama_vocab_bos(self.vocab))
        eos = self._piece(llama_cpp.llama_vocab_eos(self.vocab))
        try:
            return chat_template.render_turns(template, turns, marker, bos, eos)
        except ValueError as failure:
            raise WorkerError(str(failure)) from None

    def _piece(self, token: int) -> str:
        text = llama_cpp.llama_vocab_get_text(self.vocab, token) if token >= 0 else None
        return text.decode("utf-8", "replace") if text else ""

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a plain text, with the BOS token where the file's tokenizer adds one."""
        raw = text.encode()
        room = (llama_cpp.llama_token * (len(raw) + 8))()
        n = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), room, len(room), True, False)
        return list(room[: max(n, 0)])

    def bos(self) -> int | None:
        """Return the BOS token where the tokenizer adds one."""
        return int(llama_cpp.llama_vocab_bos(self.vocab)) if llama_cpp.llama_vocab_get_add_bos(self.vocab) else None

    def is_end(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self.vocab, token))

    def clear(self) -> None:
        """Empty the context."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def forget_from(self, position: int) -> bool:
        """Drop what was read from a position on; return False where the model cannot do that (recurrent ones)."""
        return bool(llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.context), 0, position, -1))

    def logits(self, index: int) -> np.ndarray:
        """Return float32 [n_vocab] after a token of the last batch."""
        pointer = llama_cpp.llama_get_logits_ith(self.context, index)
        if not pointer:
            raise WorkerError("libllama returned no logits for this model")
        return np.ctypeslib.as_array(pointer, (self.n_vocab,))

    def decode(self, tokens: list[int], position: int, rows: list[np.ndarray] | None = None) -> None:
        """Read text tokens; logits are kept after the last one, or after all of them where `rows` takes them."""
        for at in range(0, len(tokens), self.n_batch):
            part = tokens[at : at + self.n_batch]
            batch = llama_cpp.llama_batch_init(len(part), 0, 1)
            try:
                batch.n_tokens = len(part)
                for i, token in enumerate(part):
                    batch.token[i], batch.pos[i] = token, position + at + i
                    batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                    batch.logits[i] = rows is not None or at + i == len(tokens) - 1
                if llama_cpp.llama_decode(self.context, batch):
                    raise WorkerError("libllama failed to read the prompt")
                if rows is not None:
                    rows.append(np.stack([self.logits(i) for i in range(len(part))]))
            finally:
                llama_cpp.llama_batch_free(batch)

    def read(
        self, text: str, images: Sequence[str], rows: list[np.ndarray] | None = None
    ) -> tuple[int, list[int], int]:
        """Read a prompt into an empty context; return the next position, the text tokens, and the length including the
        images."""
        if images and self.mtmd is None:
            raise WorkerError("an image was given without an mmproj")
        self.clear()
        if self.mtmd:
            return self._read_media(text, [_pixels(image) for image in images], rows)
        tokens = self._prompt_tokens(text)
        self._check_room(len(tokens))
        self.decode(tokens, 0, rows)
        return len(tokens), tokens, len(tokens)

    def _read_media(
        self, text: str, pictures: list[np.ndarray], rows: list[np.ndarray] | None
    ) -> tuple[int, list[int], int]:
        with self._chunks(text, pictures) as chunks:
            n_prompt = int(mtmd.mtmd_helper_get_n_tokens(chunks))
            self._check_room(n_prompt)
            position, text_tokens = 0, []
            first = dict[int, int]()  # of each picture's pieces
            for k in range(mtmd.mtmd_input_chunks_size(chunks)):
                chunk = mtmd.mtmd_input_chunks_get(chunks, k)
                tokens = _text_of(chunk)
                if tokens is not None:
                    self.decode(tokens, position, rows)
                    text_tokens += tokens
                    position += len(tokens)
                else:
                    number = int(mtmd.mtmd_input_chunk_get_id(chunk) or b"0")
                    key = _key(pictures[number])
                    position = self._read_image(chunk, position, _piece_key(key, k, first.setdefault(number, k)))
        return position, text_tokens, n_prompt

    def _chunks(self, text: str, pictures: Sequence[np.ndarray]) -> AbstractContextManager[Any]:
        """A prompt as libmtmd tokenizes it: pieces of text and of images, of which each names its image's number."""
        return self._tokenized(text, [_bitmap(pixels, number) for number, pixels in enumerate(pictures)])

    @contextmanager
    def _tokenized(self, text: str, bitmaps: list[Any]) -> Iterator[Any]:
        """The same of bitmaps, which are freed."""
        raw = text.encode()
        given = mtmd.mtmd_input_text(text=raw, text_len=len(raw), add_special=True, parse_special=True)
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            array = (mtmd.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
            if code := mtmd.mtmd_tokenize(self.mtmd, chunks, ctypes.byref(given), array, len(bitmaps)):
                raise WorkerError(f"libmtmd failed to tokenize the prompt (code {code})")
            yield chunks
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                mtmd.mtmd_bitmap_free(bitmap)

    def count(self, text: str, images: Sequence[str]) -> int:
        """Return how many tokens a prompt has, with its images, without reading it."""
        if self.mtmd:
            with self._chunks(text, [_pixels(image) for image in images]) as chunks:
                return int(mtmd.mtmd_helper_get_n_tokens(chunks))
        return len(self._prompt_tokens(text))

    def parts(self, text: str, images: Sequence[str]) -> list[list[int] | int]:
        """Return what a prompt consists of: tokens of text, and how many tokens a piece of an image has."""
        if not self.mtmd:
            return [self._prompt_tokens(text)]
        with self._chunks(text, [_pixels(image) for image in images]) as chunks:
            listed = [mtmd.mtmd_input_chunks_get(chunks, k) for k in range(mtmd.mtmd_input_chunks_size(chunks))]
            texts = [(chunk, _text_of(chunk)) for chunk in listed]
            return [int(mtmd.mtmd_input_chunk_get_n_tokens(chunk)) if text is None else text for chunk, text in texts]

    def pieces(self, width: int, height: int) -> tuple[list[tuple[int, int]], int]:
        """Return the sizes in pixels of what the vision half would compute of a picture of this size, and how many
        tokens it has in all."""
        if self.mtmd is None:
            raise WorkerError("a picture's size was asked for without an mmproj")
        bitmap = mtmd.mtmd_bitmap_init(width, height, None)  # a placeholder: it has a size, and no pixels
        with self._tokenized(mtmd.mtmd_default_marker().decode(), [bitmap]) as chunks:
            listed = [mtmd.mtmd_input_chunks_get(chunks, k) for k in range(mtmd.mtmd_input_chunks_size(chunks))]
            pictures = [chunk for chunk in listed if _text_of(chunk) is None]
            sizes = [size for chunk in pictures for size in saved_chunk.picture_sizes(_saved(chunk))]
            return sizes, sum(int(mtmd.mtmd_input_chunk_get_n_tokens(chunk)) for chunk in pictures)

    def _prompt_tokens(self, text: str) -> list[int]:
        raw = text.encode()
        room = (llama_cpp.llama_token * (len(raw) + 8))()
        n = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), room, len(room), True, True)
        return list(room[:n])

    def _read_image(self, chunk: Any, position: int, key: str) -> int:
        """Read a piece of an image; what the vision half makes of it is kept where a folder for that was given."""
        cached = self._embeddings / f"{key}.npy" if self._embeddings else None
        width = llama_cpp.llama_model_n_embd_inp(self.model)
        if cached is not None and cached.exists():
            embedding = np.load(cached, allow_pickle=False)
        else:
            started = time.perf_counter()
            if code := mtmd.mtmd_encode_chunk(self.mtmd, chunk):
                raise WorkerError(f"libmtmd failed to read the image (code {code})")
            self.encode_seconds += time.perf_counter() - started
            n = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
            embedding = np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(self.mtmd), (n * width,)).copy()
            if cached is not None:
                with atomic.whole(cached) as part, part.open("wb") as file:
                    np.save(file, embedding)
        after = llama_cpp.llama_pos(0)
        code = mtmd.mtmd_helper_decode_image_chunk(
            self.mtmd,
            self.context,
            chunk,
            embedding.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            position,
            0,
            N_BATCH,
            ctypes.byref(after),
            mtmd.mtmd_helper_post_decode_callback(0),
            None,
        )
        if code:
            raise WorkerError(f"libllama failed to read the image (code {code})")
        return int(after.value)

    def _check_room(self, n: int) -> None:
        if n >= self.n_ctx:
            raise WorkerError(f"the prompt has {n} tokens, but the context size is {self.n_ctx}")

    def text(self, tokens: list[int]) -> str:
        if not tokens:
            return ""
        buffer = ctypes.create_string_buffer(64 * len(tokens) + 64)
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        n = llama_cpp.llama_detokenize(self.vocab, array, len(tokens), buffer, len(buffer), False, True)
        return buffer.raw[: max(n, 0)].decode("utf-8", "replace")


def _text_of(chunk: Any) -> list[int] | None:
    """The tokens of a piece of a prompt; None where it is a piece of an image."""
    n = ctypes.c_size_t(0)
    tokens = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(n))
    return list(tokens[: n.value]) if tokens else None


def _saved(chunk: Any) -> bytes:
    """A piece of a prompt as libmtmd saves it: all but the pixels."""
    n_bytes = ctypes.c_size_t(0)
    if mtmd.mtmd_input_chunk_save(chunk, None, 0, ctypes.byref(n_bytes)):
        raise WorkerError("libmtmd failed to describe the picture")
    buffer = ctypes.create_string_buffer(n_bytes.value)
    if mtmd.mtmd_input_chunk_save(chunk, buffer, len(buffer), None):
        raise WorkerError("libmtmd failed to describe the picture")
    return buffer.raw


def _pixels(image: str) -> np.ndarray:
    """Read an image as uint8 [height, width, 3]."""
    try:
        return np.ascontiguousarray(np.asarray(open_rgb(Path(image))))
    except ValueError as failure:
        raise WorkerError(str(failure)) from None


def _key(pixels: np.ndarray) -> str:
    """Names an image's pixels in the folder of embeddings."""
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()[:32]


def _piece_key(key: str, k: int, first: int) -> str:
    """Names piece number `k` of a prompt, of an image whose pieces begin with number `first`. An image's pieces have
    the same names wherever it stands behind text; what stands before any text has names of its own, since there the
    count begins with 0."""
    return f"{key}-{k - first + 1}" if first else f"{key}-0" + (f"-{k}" if k else "")


def _bitmap(pixels: np.ndarray, number: int) -> Any:
    height, width, _ = pixels.shape
    bitmap = mtmd.mtmd_bitmap_init(width, height, pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
    mtmd.mtmd_bitmap_set_id(bitmap, str(number).encode())
    return bitmap
