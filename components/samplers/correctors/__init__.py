"""Correctors: which visible tokens change."""
