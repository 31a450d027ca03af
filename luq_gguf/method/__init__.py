"""This package holds the method as pure functions over numpy and scipy: entropy, ranking, importance,
knapsack, sensitivity and the plans that follow from them. Code that reads or writes a file, starts a process or
imports torch or gguf belongs to a stage or to `hf` and `llamacpp`.
"""
