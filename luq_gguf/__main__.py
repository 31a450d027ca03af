"""``python -m luq_gguf`` is ``luq-gguf``."""

from luq_gguf.cli import main

main()
