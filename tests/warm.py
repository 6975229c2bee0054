"""What processes do before they fork others, so that no child has to make numba ready for itself."""

from __future__ import annotations

import numpy as np

from genostore.statistics import Statistics

Statistics.of(np.zeros(1, np.float32))
