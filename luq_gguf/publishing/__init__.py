"""This package publishes a finished run on the Hub: it collects the files, writes the model card and uploads both.
Downloads belong to `hf`.
"""
