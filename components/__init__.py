"""What proseco computes: mathematics, models, objectives, samplers, scorers, data and storage.

Nothing here knows Ray, DeepSpeed, MLflow or OmegaConf.
"""
