"""Adam on many parameter rows at once, each at its own pace: it refines the solver's starts."""

import math

import torch
from torch import Tensor

from ntdm.config.stages import InferConfig

BETA1, BETA2 = 0.4, 0.6


class RowAdam:
    """Adam over B independent parameter rows; keeps each row's best iterate and drops rows that converged.

    The rate falls every `decay_every` steps, and for a row whose loss has not fallen by `least_gain` in
    `patience` steps (0: ever so many) at once; a row that would fall beyond the last rate is done and leaves.

    Args:
        rows: where they start [B, P].
        steps: the most that a row takes.

    Attributes:
        rows: those that still move [L, P].
        live: their numbers among the B rows [L].
        rate: how often the rate of each has fallen [L].
        best: the best iterate of all rows [B, P].
        best_loss: of all rows [B]; infinite before the first loss.
    """

    def __init__(self, rows: Tensor, config: InferConfig, steps: int, patience: int) -> None:
        self.config, self.patience, self.steps, self.taken = config, patience, steps, 0
        self.rows, self.live = rows, torch.arange(len(rows), device=rows.device)
        self.best, self.best_loss = rows.clone(), rows.new_full((len(rows),), math.inf)
        self.rate = torch.zeros_like(self.live)
        self._first, self._second, self._count = (torch.zeros_like(rows) for _ in range(3))
        self._stuck, self._entered = torch.zeros_like(self.live), torch.zeros_like(self.live)  # in steps
        self._mark = self.best_loss.clone()  # the loss from which the next gain counts

    @torch.no_grad()
    def keep(self, loss: Tensor) -> None:
        """Compares the losses [L] of the present rows with the best of each."""
        better = loss < self.best_loss[self.live]
        self.best[self.live[better]], self.best_loss[self.live[better]] = self.rows[better], loss[better]

    @torch.no_grad()
    def step(self, gradient: Tensor, free: Tensor) -> Tensor:
        """One step of the entries `free` [L, P] against `gradient` [L, P]; after `keep`.

        Returns:
            bool [L]: the rows that stay. All do before the last step, so that each row's end is looked at.
        """
        config = self.config
        self._count = self._count + free
        self._first = torch.where(free, BETA1 * self._first + (1 - BETA1) * gradient, self._first)
        self._second = torch.where(free, BETA2 * self._second + (1 - BETA2) * gradient.square(), self._second)
        scaled = self._first / (1 - BETA1**self._count).clamp_min(1e-12)
        spread = (self._second / (1 - BETA2**self._count).clamp_min(1e-12)).sqrt() + 1e-8
        pace = config.learning_rate * config.learning_rate_decay ** self.rate.to(gradient.dtype)
        self.rows = self.rows - torch.where(free, pace[:, None] * scaled / spread, 0.0)
        self.taken += 1
        best = self.best_loss[self.live]
        gained = self._mark - best > config.least_gain
        self._mark, self._stuck = torch.where(gained, best, self._mark), (self._stuck + 1) * ~gained
        falls = self.taken - self._entered >= config.decay_every
        if self.patience:
            falls |= self._stuck >= self.patience
        self.rate, self._stuck = self.rate + falls, self._stuck * ~falls
        self._entered = torch.where(falls, self.taken, self._entered)
        moving = self.rate <= max(0, self.steps - 1) // config.decay_every
        if self.taken == self.steps:
            return torch.ones_like(moving)
        if not moving.all():
            self._drop_all_but(moving)
        return moving

    def _drop_all_but(self, moving: Tensor) -> None:
        for name in ("rows", "live", "rate", "_first", "_second", "_count", "_stuck", "_entered", "_mark"):
            setattr(self, name, getattr(self, name)[moving])
