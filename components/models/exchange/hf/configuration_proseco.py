"""Configuration of an exported ProSeCo model, for `transformers`. Stands alone."""

from transformers import PretrainedConfig


class ProsecoConfig(PretrainedConfig):
    model_type = "proseco"

    def __init__(
        self,
        vocab_size=32,
        dim=64,
        depth=3,
        heads=4,
        mlp_dim=176,
        rope_theta=10000.0,
        num_positions=0,
        num_classes=0,
        value_range=(),
        time_conditioning=False,
        tie_embeddings=False,
        length=25,
        norm_eps=1e-6,
        shift_logits=False,
        attention_block=0,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.dim = dim
        self.depth = depth
        self.heads = heads
        self.mlp_dim = mlp_dim
        self.rope_theta = rope_theta
        self.num_positions = num_positions
        self.num_classes = num_classes
        self.value_range = tuple(value_range)
        self.time_conditioning = time_conditioning
        self.tie_embeddings = tie_embeddings
        self.length = length
        self.norm_eps = norm_eps
        self.shift_logits = shift_logits
        self.attention_block = attention_block
        self.hidden_size = dim
        self.num_hidden_layers = depth
        self.num_attention_heads = heads
        kwargs.pop("tie_word_embeddings", None)
        super().__init__(tie_word_embeddings=False, **kwargs)
