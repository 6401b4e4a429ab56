"""Power-function moving average of weights (EDM2, Karras et al. 2024, eq 126)."""

import torch
from torch import nn


def gamma_of(sigma_rel: float) -> float:
    """Return the exponent whose averaging profile has the relative width `sigma_rel`.

    The positive root of (g + 1) / ((g + 2)^2 (g + 3)) = sigma_rel^2; 0.05 gives 16.97.
    """
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
        self.average = {n: p.detach().float().clone() for n, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Fold in the current weights with beta_t = (1 - 1/t)^(gamma + 1)."""
        self.step += 1
        beta = (1 - 1 / self.step) ** (self.gamma + 1)
        for name, parameter in module.named_parameters():
            self.average[name].lerp_(parameter.detach().float(), 1 - beta)
