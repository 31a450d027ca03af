"""This package is the edge to Hugging Face: it opens and downloads checkpoints, loads processors, datasets and
reference models, and maps their names to GGUF's. What is computed with a model belongs to `calibration`, and what is
published on the Hub belongs to `publishing`.
"""
