"""This package runs tasks of lmms-eval on a file in llama-server and keeps finished ones. Questions that
luq-gguf asks by itself belong to `evaluation`.
"""
