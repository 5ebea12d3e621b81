"""What a step draws: samples, noise and time steps, each from its place in the training and from nothing else.

So a training gives the same result however its batches are split over processes and passes, and one that is resumed
needs no state of a random generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vsad.training.config import TrainConfig
from vsad.training.station import Station

_ORDER, _NOISE = 0, 1


def seeded(*numbers: int) -> torch.Generator:
    """A generator whose numbers depend on all of these, which are at least 0, and on their order."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


class Pass(NamedTuple):
    """What one pass of the network takes, of one station.

    Args:
        station: index of the station.
        clean, noise: ``(b, V, c, h, w)``.
        timesteps: ``(b,)`` int64.
    """

    station: int
    clean: Tensor
    noise: Tensor
    timesteps: Tensor


class Share(NamedTuple):
    """The part of every batch that is a process's: that of number ``process`` of ``processes``, counted from 0."""

    process: int = 0
    processes: int = 1

    def batch(self, config: TrainConfig) -> int:
        """The samples of a pass.

        Raises:
            ValueError: the batch does not split evenly.
        """
        parts = self.processes * config.accumulation
        if config.batch % parts:
            raise ValueError(
                f"train: batch must be a multiple of processes x accumulation, {self.processes} x "
                f"{config.accumulation}, got {config.batch}; change batch or accumulation"
            )
        return config.batch // parts


# A process that trains alone.
ALONE = Share()


class Passes(Dataset[Pass]):
    """All passes of this process in all steps, in order: item ``step * accumulation + k`` is the k-th of a step.

    A step's samples are of one station. Stations take turns in proportion to their samples, step s that of the
    fractional part of ``s (sqrt(5) - 1) / 2``, whose parts any stretch of steps meets to within about one step. A
    station's samples follow each other in an order drawn for each epoch.

    Args:
        stations: at least one.
        config: how to train.
        share: of this process.

    Raises:
        ValueError: the batch does not split evenly.
    """

    def __init__(self, stations: Sequence[Station], config: TrainConfig, share: Share = ALONE) -> None:
        self.stations, self.config, self.share, self.size = stations, config, share, share.batch(config)
        sizes = np.array([len(station.latents) for station in stations])
        golden = np.arange(config.steps) * ((math.sqrt(5) - 1) / 2) % 1
        self.turns = np.searchsorted(sizes.cumsum() / sizes.sum(), golden, side="right")  # (steps,)
        # How many steps of its own station came before each step.
        self.before = np.zeros(config.steps, int)
        for station in range(len(stations)):
            mine = self.turns == station
            self.before[mine] = np.arange(mine.sum())
        self._orders: dict[int, tuple[int, Tensor]] = {}

    def __len__(self) -> int:
        return self.config.steps * self.config.accumulation

    def __getitem__(self, index: int) -> Pass:
        step, part = divmod(index, self.config.accumulation)
        station = int(self.turns[step])
        latents = self.stations[station].latents
        first = (part * self.share.processes + self.share.process) * self.size
        clean, noise, timesteps = [], [], []
        for position in range(first, first + self.size):
            sample = latents[self.sample(step, position)].float()
            generator = seeded(self.config.seed, _NOISE, step, position)
            timesteps.append(torch.randint(self.config.max_timestep, (), generator=generator))
            noise.append(torch.randn(sample.shape, generator=generator))
            clean.append(sample)
        return Pass(station, torch.stack(clean), torch.stack(noise), torch.stack(timesteps))

    def sample(self, step: int, position: int) -> int:
        """Index of the sample at a position of a step's batch."""
        station = int(self.turns[step])
        place = int(self.before[step]) * self.config.batch + position
        epoch, row = divmod(place, len(self.stations[station].latents))
        return int(self._order(station, epoch)[row])

    def _order(self, station: int, epoch: int) -> Tensor:
        """The order of a station's samples in an epoch; the last one is remembered."""
        known, order = self._orders.get(station, (-1, torch.empty(0)))
        if known != epoch:
            generator = seeded(self.config.seed, _ORDER, station, epoch)
            order = torch.randperm(len(self.stations[station].latents), generator=generator)
            self._orders[station] = (epoch, order)
        return order
