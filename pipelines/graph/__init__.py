"""Stages as values, what of them is to be done, and how it is done."""
