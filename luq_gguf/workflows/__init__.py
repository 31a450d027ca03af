"""This package does what a command does from end to end, by calling the stages in their order. Parsing and printing
belong to `cli`, and the work of one stage belongs to that stage.
"""
