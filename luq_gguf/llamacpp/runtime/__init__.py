"""This package loads a GGUF file with llama-cpp-python in a worker process and holds the client that sends it
requests. Tools of llama.cpp that are programs of their own belong to `llamacpp`.
"""
