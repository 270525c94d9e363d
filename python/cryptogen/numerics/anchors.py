"""Which scores of a row the others are taken relative to: A5.5a of
`docs/protocols/arithmetic.md`."""

import numpy as np
from numpy.typing import NDArray

# log2 of the scores, some of them several times, of which an anchor is the mean
ANCHORS = {"first": 0, "own": 0, "both": 1, "spread": 3, "own_spread": 4}
SPREAD = 1 << ANCHORS["spread"]


def anchor_rows(anchor: str, own: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows whose scores make up the anchors of the rows `own` [T]: [T, 2^ANCHORS[anchor]]."""
    own = own[:, None]  # [T, 1]
    spread = own * np.arange(1, SPREAD + 1) // SPREAD  # [T, 8], the last is the row itself
    return {
        "first": np.zeros_like(own),
        "own": own,
        "both": np.concatenate([np.zeros_like(own), own], axis=1),
        "spread": spread,
        "own_spread": np.concatenate([own.repeat(SPREAD, axis=1), spread], axis=1),
    }[anchor]
