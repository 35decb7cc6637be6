"""Inputs: what the network sees at a position."""
