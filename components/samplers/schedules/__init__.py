"""Schedules: how much is revealed by when."""
