"""This package computes metrics from given answers and distributions, as pure functions: divergence, scores of
answers, intervals. Running a model to get answers or distributions belongs to `evaluation`.
"""
