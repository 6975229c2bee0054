"""The order of samples: pure index arithmetic, the same at every speed, for any number of threads or workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_ORDER, _JITTER = 0, 1  # streams of random numbers, one a purpose


@dataclass(frozen=True)
class Order:
    """Which samples make up which batch, for one rank of several.

    One permutation of all samples is drawn from (seed, epoch). It is cut into global batches of
    ``batch_size * world`` samples, of which rank r takes every ``world``-th from its r-th on. So the ranks are
    disjoint, and together read the same samples in the same steps as one rank with the larger batch would.

    The ranks get equally many samples: where ``world`` does not divide their number, the last ``n % world`` of an
    epoch's order are left out (others each epoch, when shuffled; none with one rank).

    Attributes
    ----------
    n
        Samples.
    batch_size
        Of one rank.
    shuffle, seed
        Permute, and from which seed.
    drop_last
        Leave out the last, short batch.
    rank, world
        This rank and the number of ranks.
    """

    n: int
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    drop_last: bool = False
    rank: int = 0
    world: int = 1

    @property
    def samples(self) -> int:
        """Samples an epoch, of this rank."""
        each = self.n // self.world
        return each // self.batch_size * self.batch_size if self.drop_last else each

    def __len__(self) -> int:
        """Batches an epoch, of this rank."""
        return -(-self.samples // self.batch_size)

    def epoch(self, epoch: int) -> Ints:
        """Give this rank's samples of an epoch, ``(samples,)`` in order; batches are consecutive slices of it."""
        order = np.arange(self.n, dtype=np.int64)
        if self.shuffle:
            np.random.default_rng((self.seed, epoch, _ORDER)).shuffle(order)
        return order[self.rank :: self.world][: self.samples]

    def batch(self, order: Ints, number: int) -> Ints:
        """Cut batch ``number`` out of the order that :meth:`epoch` gave."""
        return order[number * self.batch_size : (number + 1) * self.batch_size]

    def shifts(self, epoch: int, jitter: int) -> Ints:
        """Give the shift of every sample in an epoch, ``(n,)`` uniform in ``[-jitter, jitter]``."""
        if not jitter:
            return np.zeros(self.n, dtype=np.int64)
        random = np.random.default_rng((self.seed, epoch, _JITTER))
        return random.integers(-jitter, jitter, size=self.n, endpoint=True)
