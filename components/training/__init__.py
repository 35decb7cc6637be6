"""The training loop, the engine it runs on, and checkpoints."""
