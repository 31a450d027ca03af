"""Edge to llama.cpp: its tools as child processes, its libraries in a worker, its files through `gguf`."""
