"""luq-gguf: layerwise ultra-low-bit quantization of vision-language models into GGUF files for llama.cpp."""

from luq_gguf._version import __version__

__all__ = ["__version__"]
