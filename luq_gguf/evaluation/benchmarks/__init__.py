"""This package runs tasks of lmms-eval on a file in llama-server and keeps what was finished. Questions that
luq-gguf asks by itself belong to `evaluation`.
"""
