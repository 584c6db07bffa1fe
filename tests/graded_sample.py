"""Sixty rows of three ordered classes, on which other packages were asked for the answers."""

from __future__ import annotations

import numpy as np

Y = np.array(list("121221001001000101101200100012001000201000002002020001012102"), dtype=int)
_SECOND = [
    *[71, 18, 26, 51, 18, 79, 29, 10, 34, 60, 28, 44, 31, 0, 21, 39, 40, 57, 48, 10],
    *[77, 14, 4, 36, 23, 52, 27, 8, 65, 57, 58, 24, 23, 12, 23, 28, 16, 25, 71, 30],
    *[22, 33, 49, 20, 13, 38, 29, 8, 53, 45, 15, 34, 50, 49, 31, 26, 45, 50, 20, 37],
]
_THIRD = [
    *[3, 35, 4, 14, 56, 11, 42, 4, 27, 6, 19, 15, 7, 41, 32, 19, 28, 40, 17, 34],
    *[14, 70, 2, 12, 0, 2, 32, 21, 15, 5, 11, 14, 49, 31, 13, 42, 40, 27, 16, 14],
    *[37, 8, 15, 15, 77, 11, 7, 60, 2, 37, 7, 35, 4, 8, 22, 10, 26, 7, 17, 28],
]
PROBA = np.stack([100 - np.array(_SECOND) - _THIRD, _SECOND, _THIRD], axis=1) / 100
SHARP = PROBA**4 / (PROBA**4).sum(axis=1, keepdims=True)
