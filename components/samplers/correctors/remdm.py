"""ReMDM's remasking ("Remasking Discrete Diffusion Models with Inference-Time Scaling", arXiv 2503.00307).

With alpha_t visible before a tick and alpha_s after it, and 0 <= sigma <= min(1, (1 - alpha_s) / alpha_t):

    visible -> mask   with probability sigma
    mask    -> token  with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)

keeps MDLM's marginals whatever sigma is. Neither set depends on the network, so reveals are drawn ahead
(``schedule.Ancestral``) and a tick that only masks needs no call.

Departures. ``conf`` gives each visible token a sigma of its own and, as released, none to masked
positions, so its marginals are not MDLM's (they are off by up to 0.26); it ends all the same. ``dfm``, the
predictor-corrector of discrete flow matching with a_t = 10 t^(1/4) (1 - t)^(1/4) + 1 and b_t = a_t - 1, is cut
at the largest sigma and made up for exactly, where the released code shortens the time step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from components.diffusion import noise
from components.diffusion.noise import Stream
from components.samplers.correctors.base import Correcting, Verdict, verdict
from components.samplers.options.correctors import RemdmConfig, RemdmLoopConfig
from components.samplers.owners import Start
from components.samplers.state import Field, State
from components.samplers.view import View


def largest_sigma(share: Tensor) -> Tensor:
    """min(1, (1 - alpha_s) / alpha_t) at each tick [T], of masked shares [T + 1]."""
    return (share[1:] / (1 - share[:-1]).clamp(min=1e-300)).clamp(max=1)


def cap(share: Tensor, eta: float) -> Tensor:
    return largest_sigma(share).clamp(max=eta)


def rescale(share: Tensor, eta: float) -> Tensor:
    return eta * largest_sigma(share)


def forward_backward(share: Tensor, eta: float) -> Tensor:
    """(alpha_s - alpha_t) / alpha_t: a step back for each step forth."""
    return torch.minimum((share[:-1] - share[1:]) / (1 - share[:-1]).clamp(min=1e-300), largest_sigma(share))


def dfm(share: Tensor, eta: float) -> Tensor:
    """b_t (alpha_s - alpha_t) / alpha_t."""
    t = share[:-1]
    b = 10 * (t * (1 - t)).clamp(min=0) ** 0.25
    return torch.minimum(b * (t - share[1:]) / (1 - t).clamp(min=1e-300), largest_sigma(share))


SIGMA: dict[str, Callable[[Tensor, float], Tensor]] = {
    "cap": cap,
    "rescale": rescale,
    "conf": rescale,
    "forward_backward": forward_backward,
    "dfm": dfm,
}


class Remdm(Correcting):
    """See ``components.samplers.correctors.base.Corrector``."""

    needs_answer = False

    def __init__(self, config: RemdmConfig):
        self.config = config
        self.by_confidence = config.sigma == "conf"

    def pace(self, times: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigmas(times)
        return times, torch.zeros_like(sigma) if self.by_confidence else sigma

    def sigmas(self, times: Tensor) -> Tensor:
        """The remasking probability at each tick [T], of the grid of times [T + 1]."""
        sigma = SIGMA[self.config.sigma](times, self.config.eta)
        return torch.where(times[:-1] < self.config.switch, sigma, 0) if self.config.switch < 1 else sigma

    def begin(self, start: Start) -> dict[str, Field]:
        return {"sigma": Field(self.sigmas(start.times).expand(len(start.masked), -1).contiguous())}

    def next_due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        some = (~masked & ~state.fixed).any(-1) & (state.tick <= steps)
        return torch.where(some, state.tick, steps + 1)

    def correct(self, state: State, view: View, due: Tensor, reach: Tensor, steps: int) -> Verdict:
        visible = ~view.masked & ~state.fixed
        sigma = state["sigma"].gather(-1, (state.tick - 1).clamp(0, steps - 1)[:, None])
        if self.by_confidence:
            # -inf everywhere, before the first reveal, would make NaN of the softmax.
            score = (-state.confidence.double()).masked_fill(~visible, -1e9)
            sigma = sigma * torch.softmax(score, dim=-1)
        u = noise.uniform(state.keys, state.tick, 0, visible.shape[1], Stream.REMASK)
        # Of several that a limit does not let through, those go first that the draw chose most clearly.
        return verdict(state, remask=visible & (u < sigma) & due[:, None], urgency=-u / sigma)


class RemdmLoop(Remdm):
    """Three phases: plain to alpha_on at t_on; remask and reveal in balance; plain from t_off to the end.

    A tick that begins in one phase and ends in another is plain, so that the shares at its ends are those of their times;
    the released code takes it for one of the phase in which it begins.
    """

    def __init__(self, config: RemdmLoopConfig):
        self.loop = config
        self.by_confidence = False

    def pace(self, times: Tensor) -> tuple[Tensor, Tensor]:
        c = self.loop
        before = 1 - (1 - times) * c.alpha_on / (1 - c.t_on)
        after = times * (1 - c.alpha_on) / c.t_off
        share = torch.where(times >= c.t_on, before, torch.where(times <= c.t_off, after, 1 - c.alpha_on))
        return share, self.sigmas(times)

    def sigmas(self, times: Tensor) -> Tensor:
        inside = (times[:-1] <= self.loop.t_on) & (times[1:] >= self.loop.t_off)
        return torch.where(inside, self.loop.eta, 0.0).to(times)
