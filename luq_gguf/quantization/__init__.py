"""This package is the quantize stage: it writes and checks the 16-bit files, the LUQ file and the files that it is
compared with, whole or in slices. Which type a tensor gets is decided by `planning`.
"""
