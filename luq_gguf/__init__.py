"""luq-gguf: layerwise ultra-low-bit quantization of vision-language models into GGUF files for llama.cpp."""

__version__ = "0.1.0"
