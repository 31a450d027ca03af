"""Loads an mmproj file in the pinned libmtmd, but not its weights, and ends with 0 if that is possible.

A program of its own, started by `mmproj_check` with the folder of the libraries and the file.
"""

import ctypes
import sys
from pathlib import Path

LOADER = "_Z9clip_initPKc19clip_context_params"  # clip_init of tools/mtmd/clip.h, which libmtmd exports as C++


class Settings(ctypes.Structure):
    """clip_context_params of the pinned llama.cpp."""

    _fields_ = (
        ("use_gpu", ctypes.c_bool),
        ("device", ctypes.c_void_p),
        ("flash_attn_type", ctypes.c_int),
        ("image_min_tokens", ctypes.c_int),
        ("image_max_tokens", ctypes.c_int),
        ("warmup", ctypes.c_bool),
        ("cb_eval", ctypes.c_void_p),
        ("cb_eval_user_data", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
        ("progress_callback", ctypes.c_void_p),
        ("progress_callback_user_data", ctypes.c_void_p),
    )


class Encoders(ctypes.Structure):
    """clip_init_result: of pictures, of sound, and one that makes sound."""

    _fields_ = (("vision", ctypes.c_void_p), ("audio", ctypes.c_void_p), ("made_audio", ctypes.c_void_p))


def main() -> int:
    load = ctypes.CDLL(str(Path(sys.argv[1]) / "libmtmd.so"))[LOADER]
    load.argtypes, load.restype = (ctypes.c_char_p, Settings), Encoders
    # A warm-up builds the graph of a picture, which asks for tensors that the loader takes for optional.
    loaded = load(sys.argv[2].encode(), Settings(flash_attn_type=-1, warmup=True, no_alloc=True))
    return 0 if loaded.vision or loaded.audio or loaded.made_audio else 1


if __name__ == "__main__":
    sys.exit(main())
