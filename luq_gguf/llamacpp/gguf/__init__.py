"""This package reads, validates, splices and writes GGUF files: models, headers without data, importance matrices
and vision halves. Running llama.cpp on such a file belongs to `llamacpp` and `llamacpp.runtime`.
"""
