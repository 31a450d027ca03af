"""Figures and tables of files and measurements."""
