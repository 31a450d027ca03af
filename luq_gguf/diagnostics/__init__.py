"""This package checks whether an installation, a run folder or a GGUF file is what it should be. It changes nothing
that it looks at.
"""
