"""Comparing samplers: quality against network calls, with intervals."""
