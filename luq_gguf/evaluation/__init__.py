"""This package measures how good a file is on given questions and texts, and caches what was measured. Formulas of
metrics belong to `method.metrics`, and how fast a file is belongs to `benchmarking`.
"""
