"""This package decides which type every tensor gets: orders, budgets, mixed precision, and what has to be measured
for them. The arithmetic belongs to `method`, and writing the planned file belongs to `quantization`.
"""
