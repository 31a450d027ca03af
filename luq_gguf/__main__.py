"""``python -m luq_gguf`` is ``luq-gguf``."""

from luq_gguf.cli import program

if __name__ == "__main__":
    program()
