"""This package is the profile stage: it passes the calibration set through the reference model, in one process or
several, and keeps entropies and importance. Reading datasets and loading models belongs to `hf`, and choosing types
from a profile belongs to `planning`.
"""
