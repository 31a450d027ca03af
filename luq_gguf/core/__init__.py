"""This package holds what all others share: errors, the frozen values that pass between stages, the reporter, units,
interrupts, facts about this machine, and bounded readers of untrusted input. Nothing in it knows a stage, a model
library or llama.cpp.
"""
