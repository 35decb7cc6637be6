"""Graphs of stages, as Python."""
