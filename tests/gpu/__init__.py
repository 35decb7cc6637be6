"""What a GPU must do as a CPU does, in one command: see ``tests/gpu/check.py``."""
