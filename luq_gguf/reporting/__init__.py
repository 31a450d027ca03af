"""This package shows what is known of a run as tables, figures, sentences and one HTML page. It measures and decides
nothing, and the model card belongs to `publishing`.
"""
