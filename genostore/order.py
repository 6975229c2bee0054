"""The order of samples: pure index arithmetic, the same at every speed, for any number of threads or workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genostore.errors import QueryError

Ints = NDArray[np.int64]
_ORDER, _JITTER, _STRAND = 0, 1, 2  # streams of random numbers, one a purpose


@dataclass(frozen=True)
class Order:
    """Which samples make up which batch, for one rank of several.

    With ``shuffle=True`` one permutation of all samples is drawn from (seed, epoch). It is cut into global batches of
    ``batch_size * world`` samples, of which rank r takes every ``world``-th from its r-th on. So the ranks are
    disjoint, and together read the same samples in the same steps as one rank with the larger batch would.

    With ``shuffle="blocks"``, for packs that outgrow memory, blocks of ``block`` consecutive samples are permuted
    instead, each rank takes an equal run of them, and ``buffer`` blocks at a time are shuffled together. A reader that
    reads the :attr:`load` batches of such a buffer at once decodes each block once, in one rank. Buffers are rounded
    up to whole batches.

    The ranks get equally many samples: where ``world`` does not divide their number, the last ``n % world`` of an
    epoch's order are left out (others each epoch, when shuffled; none with one rank). ``even=False`` leaves out none,
    and the first ranks get one more: for scoring, where ranks need not keep step.

    Attributes
    ----------
    n
        Samples.
    batch_size
        Of one rank.
    shuffle, seed
        False, True or ``"blocks"``, and from which seed.
    drop_last
        Leave out the last, short batch.
    rank, world
        This rank and the number of ranks.
    block, buffer
        Samples a block, and blocks that are shuffled together; for ``shuffle="blocks"`` only.
    even
        Whether all ranks get equally many; False not with ``shuffle="blocks"``.
    """

    n: int
    batch_size: int
    shuffle: bool | Literal["blocks"] = False
    seed: int = 0
    drop_last: bool = False
    rank: int = 0
    world: int = 1
    block: int = 16
    buffer: int = 64
    even: bool = True

    def __post_init__(self) -> None:
        if self.shuffle not in (False, True, "blocks"):
            raise QueryError(f"shuffle is {self.shuffle!r}; it is True, False or 'blocks'")
        if self.shuffle == "blocks" and not self.even:
            raise QueryError("shuffle='blocks' gives all ranks equally many samples; even=False goes with the others")
        for name in ("batch_size", "block", "buffer"):
            if getattr(self, name) < 1:
                raise QueryError(f"{name} is {getattr(self, name)}; it is 1 or more")

    @property
    def samples(self) -> int:
        """Samples an epoch, of this rank."""
        each = self.n // self.world if self.even else len(range(self.rank, self.n, self.world))
        return each // self.batch_size * self.batch_size if self.drop_last else each

    @property
    def load(self) -> int:
        """Batches that are best read together: those of a shuffle buffer, or one."""
        return -(-self.block * self.buffer // self.batch_size) if self.shuffle == "blocks" else 1

    def __len__(self) -> int:
        """Batches an epoch, of this rank."""
        return -(-self.samples // self.batch_size)

    def epoch(self, epoch: int) -> Ints:
        """Give this rank's samples of an epoch, ``(samples,)`` in order; batches are consecutive slices of it."""
        random = np.random.default_rng((self.seed, epoch, _ORDER))
        if self.shuffle == "blocks":
            return self._blocks(random)[: self.samples]
        order = np.arange(self.n, dtype=np.int64)
        if self.shuffle:
            random.shuffle(order)
        return order[self.rank :: self.world][: self.samples]

    def _blocks(self, random: np.random.Generator) -> Ints:
        first = random.permutation(-(-self.n // self.block)) * self.block
        order = (first[:, None] + np.arange(self.block)).ravel()
        order = order[order < self.n]
        random.shuffle(order[-self.block :])  # so that any of a block may be among those left out
        each = self.n // self.world
        mine = order[self.rank * each : (self.rank + 1) * each]
        size = self.load * self.batch_size
        for start in range(0, each, size):
            random.shuffle(mine[start : start + size])
        return mine

    def batch(self, order: Ints, number: int) -> Ints:
        """Cut batch ``number`` out of the order that :meth:`epoch` gave."""
        return order[number * self.batch_size : (number + 1) * self.batch_size]

    def shifts(self, epoch: int, jitter: int) -> Ints:
        """Give the shift of every sample in an epoch, ``(n,)`` uniform in ``[-jitter, jitter]``."""
        if not jitter:
            return np.zeros(self.n, dtype=np.int64)
        random = np.random.default_rng((self.seed, epoch, _JITTER))
        return random.integers(-jitter, jitter, size=self.n, endpoint=True)

    def flips(self, epoch: int) -> NDArray[np.bool_]:
        """Draw whether each sample is reverse-complemented in an epoch, ``(n,)`` with even odds."""
        return np.random.default_rng((self.seed, epoch, _STRAND)).random(self.n) < 0.5
