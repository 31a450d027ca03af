"""This package holds the run folder, the artefacts on disk, and the preflight, which refuses what cannot work before
anything heavy starts. Code that computes or writes a model's files belongs to a stage.
"""
