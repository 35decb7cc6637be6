"""Networks, their sizes, averaged weights and weight files."""

from components.models.config import MODEL_PRESETS, ModelConfig

__all__ = ["MODEL_PRESETS", "ModelConfig"]
