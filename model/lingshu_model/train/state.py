"""A training run's state on disk, from which a killed run resumes to exactly the same weights.

One safetensors file: weights, their average, both moments of AdamW, and the step. It is written
under another name and renamed, so a kill leaves the whole new file or the whole old one. Order and
noise of every step are functions of (seed, step), so no state of a generator is kept.
"""

import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW

from lingshu_model.train.ema import PowerEMA


def save(path: Path, step: int, digest: str, net: nn.Module, adam: AdamW, ema: PowerEMA) -> None:
    """Write the state after `step` optimiser steps of the run with the spec digest `digest`."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in net.named_parameters():
        moments = adam.state[parameter]
        tensors[f"weight/{name}"] = parameter.detach()
        tensors[f"average/{name}"] = ema.average[name]
        tensors[f"first/{name}"] = moments["exp_avg"]
        tensors[f"second/{name}"] = moments["exp_avg_sq"]
    partial = path.with_suffix(".partial")
    try:
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in tensors.items()},
            partial,
            metadata={"step": str(step), "spec": digest},
        )
        # Before the rename: otherwise a power failure could leave the new name with no content.
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)


def restore(path: Path, digest: str, net: nn.Module, adam: AdamW, ema: PowerEMA) -> int:
    """Load a state in place and return its step; 0 where there is none.

    Raises:
        ValueError: the state is of a run with another spec or other data.
    """
    if not path.exists():
        return 0
    with safe_open(path, "pt") as handle:
        metadata = handle.metadata()
        if metadata["spec"] != digest:
            message = f"{path} belongs to another run ({metadata['spec']}, not {digest}); remove it"
            raise ValueError(message)
        step = int(metadata["step"])
        for name, parameter in net.named_parameters():
            parameter.data.copy_(handle.get_tensor(f"weight/{name}"))
            ema.average[name].copy_(handle.get_tensor(f"average/{name}"))
            adam.state[parameter] = {
                # AdamW's own counter, which corrects the bias of the moments.
                "step": torch.tensor(float(step), device=parameter.device),
                "exp_avg": handle.get_tensor(f"first/{name}").to(parameter.device),
                "exp_avg_sq": handle.get_tensor(f"second/{name}").to(parameter.device),
            }
    ema.step = step
    return step
