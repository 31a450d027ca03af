"""The instrument: tiny vision-language models that know their tasks by small margins, so that quantization shows.

`python scripts/instrument COMMAND` runs it (see README.md); `draw.py` draws pictures and questions, `train.py` trains.
"""
