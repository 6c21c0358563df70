"""Optimiser and learning rate of a training."""

import math
from collections.abc import Sequence

import torch

from ntdm.config.stages import TrainConfig

SGD_MOMENTUM = 0.9


def make_optimiser(config: TrainConfig, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that `config.optimiser` names, of these parameters."""
    if config.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, config.learning_rate, SGD_MOMENTUM, weight_decay=config.weight_decay
        )
    return torch.optim.Adam(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """The rate of a step of `total`: a linear rise, then a fall to `final_learning_rate` of the highest.

    Of the schedule "steps", a fall to a tenth every `decay_every` epochs.
    """
    if config.schedule == "exponential":
        share = config.final_learning_rate ** (step / total)
    elif config.schedule == "steps":
        share = 0.1 ** (step * config.epochs // total // config.decay_every)
    else:
        wave = (1 + math.cos(math.pi * step / total)) / 2
        share = config.final_learning_rate + (1 - config.final_learning_rate) * wave
    # A short run warms up within its first tenth.
    rise = max(1, min(config.warmup_steps, total // 10))
    return config.learning_rate * share * min(1.0, (step + 1) / rise)
