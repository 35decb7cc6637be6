"""Writes a first run for data that it has looked into."""
