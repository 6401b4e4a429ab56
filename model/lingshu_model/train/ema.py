"""Power-function moving average of weights (EDM2, Karras et al. 2024, eq 126).

The average after step t is theta_t = beta_t theta_(t-1) + (1 - beta_t) weights, with
beta_t = (1 - 1/t)^(gamma + 1): its width is a fixed share of the training so far, so one setting
suits runs of any length. An exponential average has a fixed number of steps instead.
"""

import torch
from torch import nn


def gamma_of(sigma_rel: float) -> float:
    """Return the exponent gamma whose averaging profile has the relative width `sigma_rel`.

    The positive root g of (g + 1) / ((g + 2)^2 (g + 3)) = sigma_rel^2; 0.05 gives 16.97.

    Args:
        sigma_rel: standard deviation of the profile over the length of the training, in (0, 0.3).
    """
    # The left-hand side falls with g: bisection. 100 halvings are beyond the resolution of float64.
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        wide = (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > sigma_rel**2
        low, high = (middle, high) if wide else (low, middle)
    return low


class PowerEMA:
    """Averaged float32 copies of a module's parameters; `update` after every optimiser step."""

    def __init__(self, module: nn.Module, sigma_rel: float = 0.05) -> None:
        self.gamma = gamma_of(sigma_rel)
        self.step = 0
        # float32: late in a training 1 - beta is small, and bf16 would round the change to nothing.
        self.average = {n: p.detach().float().clone() for n, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Add the current weights with beta_t = (1 - 1/t)^(gamma + 1)."""
        self.step += 1
        # beta is 0 at the first step, so nothing of the initial weights stays in the average.
        beta = (1 - 1 / self.step) ** (self.gamma + 1)
        for name, parameter in module.named_parameters():
            self.average[name].lerp_(parameter.detach().float(), 1 - beta)
