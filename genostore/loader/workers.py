"""A loader in processes of its own, where threads do not suffice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from genostore.batch import Batch

if TYPE_CHECKING:
    from genostore.loader.loop import Loader


class Workers(DataLoader[Batch]):
    """A ``DataLoader`` that counts: each pass is the next epoch, and a state is of the batches it gave out.

    A plain ``DataLoader(loader, batch_size=None, num_workers=2, multiprocessing_context="spawn")`` reads the same
    batches, but the loader in this process does not learn how far it came.

    Parameters
    ----------
    loader
        What to read.
    num_workers
        Processes, started by spawn; they share out the batches and keep their order.
    options
        Of ``torch.utils.data.DataLoader``: ``prefetch_factor``, ``persistent_workers``, ``pin_memory`` ...
    """

    def __init__(self, loader: Loader, num_workers: int = 2, **options: Any) -> None:
        context = "spawn" if num_workers else None
        super().__init__(
            loader, batch_size=None, num_workers=num_workers, **{"multiprocessing_context": context, **options}
        )
        self.loader = loader

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        if not self.num_workers:
            yield from super().__iter__()
            return
        first = self.loader.begin()
        for number, batch in enumerate(super().__iter__(), first):
            self.loader.yielded = number + 1
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; see :meth:`Loader.set_epoch`."""
        self.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Tell where the reading stands; see :meth:`Loader.state_dict`."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken; see :meth:`Loader.load_state_dict`."""
        self.loader.load_state_dict(state)
