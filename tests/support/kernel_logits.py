"""A child of the tests: logits of a model by llama-cpp-python, with the kernels or without.

python kernel_logits.py MODEL THREADS OUT.npz [KERNELS]
"""

from __future__ import annotations

import sys
from pathlib import Path

import llama_cpp
import numpy as np

from luq_gguf import kernels

THINGS = ("circle in the image", "green shape", "triangle", "blue rectangle", "brown shape in the image", "teal shape")
QUESTIONS = [f"is there a {thing}? no" for thing in THINGS] + [f"is there not a {thing}? yes" for thing in THINGS]
TEXT = "\n".join(["what shape is in the image? circle", "what is the color of the shape? red", *QUESTIONS]).encode()


def main() -> None:
    model, threads, out, *library = sys.argv[1:]
    if library:
        print("registered", kernels.register(Path(library[0])))
    llama = llama_cpp.Llama(model, n_ctx=512, n_threads=int(threads), n_threads_batch=int(threads), logits_all=True)
    tokens = llama.tokenize(TEXT, special=True)
    llama.eval(tokens)
    together = np.array(llama.scores[: len(tokens)])
    llama.reset()
    for token in tokens:
        llama.eval([token])
    np.savez(out, together=together, one_by_one=np.array(llama.scores[: len(tokens)]))


if __name__ == "__main__":
    main()
