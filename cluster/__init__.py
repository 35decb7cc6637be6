"""Where things run: Ray tasks, Ray Train with DeepSpeed, Ray Serve, MLflow, or this very process.

Each outside runtime is imported by the modules here that are named after it, and nowhere else.
"""
