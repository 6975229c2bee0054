"""Streaming batches to a device. The one part of this package that imports torch.

``loop`` is the loader itself; ``ahead`` reads in threads, ``budget`` shares out memory, ``send`` moves a batch to its
device, ``finish`` makes it what a model takes, ``workers`` puts it all into processes, ``resident`` keeps the data on
the device.
"""

from genostore.loader.finish import one_hot
from genostore.loader.loop import Loader
from genostore.loader.workers import Workers

__all__ = ["Loader", "Workers", "one_hot"]
