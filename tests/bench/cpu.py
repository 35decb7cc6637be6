"""Ratios of what the CPU settings buy, both sides in one process, alternating.

    python -m tests.bench.cpu

Prints the median ratio of five paired rounds with its spread. Each pair is gated: outputs must agree.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from components.models.config import ModelConfig
from components.models.cpu import routes_to_onednn
from components.models.transformer import Transformer

ROUNDS = 5


def written_out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.softmax((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5, dim=-1) @ v


def timed(action: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        action()
    return time.perf_counter() - start


def compare(name: str, slow: Callable[[], object], fast: Callable[[], object], repeats: int = 5) -> None:
    slow(), fast()
    ratios = [timed(slow, repeats) / timed(fast, repeats) for _ in range(ROUNDS)]
    print(f"{name:58} {statistics.median(ratios):5.2f}x  ({min(ratios):.2f} to {max(ratios):.2f})")


def attention(rows: int, heads: int, length: int, width: int) -> None:
    """torch's kernel at its own best precision setting, against the product written out at ours."""
    q, k, v = (torch.randn(rows, length, heads, width).transpose(1, 2).requires_grad_() for _ in range(3))
    assert torch.allclose(F.scaled_dot_product_attention(q, k, v), written_out(q, k, v), atol=1e-5)

    def kernel() -> None:
        torch.set_float32_matmul_precision("highest")
        F.scaled_dot_product_attention(q, k, v).sum().backward()

    def ours() -> None:
        torch.set_float32_matmul_precision("medium" if routes_to_onednn() else "highest")
        written_out(q, k, v).sum().backward()

    compare(f"attention {rows} x {heads} x {length} x {width}, forward and backward", kernel, ours)


def training_step(preset: str, rows: int, length: int, vocab: int) -> None:
    """One forward and backward of the network, default matrix route against ours."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(preset), vocab)
    tokens = torch.randint(0, vocab, (rows, length))

    def step(precision: str) -> float:
        torch.set_float32_matmul_precision(precision)
        loss = F.cross_entropy(model(tokens).logits.flatten(0, 1), tokens.flatten())
        loss.backward()
        return float(loss.detach())

    ours = "medium" if routes_to_onednn() else "highest"
    assert abs(step("highest") - step(ours)) < 1e-4
    compare(f"network {preset}, {rows} x {length}, V = {vocab}", lambda: step("highest"), lambda: step(ours), 3)


def main() -> None:
    torch.set_num_threads(1)
    print(f"this processor routes float32 to oneDNN: {routes_to_onednn()}")
    attention(64, 4, 25, 16)
    attention(16, 4, 128, 64)
    training_step("nano", 64, 25, 9)
    training_step("small", 4, 128, 4096)


if __name__ == "__main__":
    main()
