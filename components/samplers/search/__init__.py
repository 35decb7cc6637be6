"""Searches: how many chains a sample has, and which survive."""
