"""This package measures how fast files and tensor types are on this machine, and predicts the speed of a plan from
that. How good a file's answers are belongs to `evaluation`.
"""
