"""This package is the edge to llama.cpp: it runs the tools as child processes, the libraries in a worker, and reads
and writes files through `gguf`. Which tool runs when, and on which file of a run, is decided by the stages.
"""
