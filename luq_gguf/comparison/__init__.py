"""Quantizers that the paper compares with, simulated: what they leave of the weights becomes a checkpoint in 16 or 32
bits, which takes the same road as any other."""
