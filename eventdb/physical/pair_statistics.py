"""corr, covar_* and regr_*: from the moments of the pairs (y, x) of each group, in two passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eventdb.batch import Array


@dataclass(slots=True)
class _Moments:
    """Pairs, means, and sums of squared and multiplied differences from the means."""

    n: Array
    mean_y: Array
    mean_x: Array
    yy: Array
    xx: Array
    xy: Array


def _moments(y: Array, x: Array, ids: Array, count: int) -> _Moments:
    n = np.bincount(ids, minlength=count)
    some = np.maximum(n, 1)
    mean_y = np.bincount(ids, weights=y, minlength=count) / some
    mean_x = np.bincount(ids, weights=x, minlength=count) / some
    dy, dx = y - mean_y[ids], x - mean_x[ids]
    yy, xx, xy = (np.bincount(ids, weights=w, minlength=count) for w in (dy * dy, dx * dx, dx * dy))
    return _Moments(n, mean_y, mean_x, yy, xx, xy)


def _correlation(m: _Moments) -> tuple[Array, Array]:
    # The root of each alone: their product may leave the range of DOUBLE.
    varies = (m.yy != 0) & (m.xx != 0)
    value = m.xy / np.where(varies, np.sqrt(m.yy) * np.sqrt(m.xx), 1.0)
    return np.clip(value, -1.0, 1.0), (m.n > 0) & varies


def _slope(m: _Moments) -> tuple[Array, Array]:
    varies = m.xx != 0
    return m.xy / np.where(varies, m.xx, 1.0), (m.n > 0) & varies


def _intercept(m: _Moments) -> tuple[Array, Array]:
    slope, valid = _slope(m)
    return m.mean_y - slope * m.mean_x, valid


def _r2(m: _Moments) -> tuple[Array, Array]:
    value, _ = _correlation(m)
    return np.where(m.yy == 0, 1.0, value * value), (m.n > 0) & (m.xx != 0)


_FUNCTIONS: dict[str, Callable[[_Moments], tuple[Array, Array]]] = {
    "corr": _correlation,
    "covar_pop": lambda m: (m.xy / np.maximum(m.n, 1), m.n > 0),
    "covar_samp": lambda m: (m.xy / np.maximum(m.n - 1, 1), m.n > 1),
    "regr_avgx": lambda m: (m.mean_x, m.n > 0),
    "regr_avgy": lambda m: (m.mean_y, m.n > 0),
    "regr_sxx": lambda m: (m.xx, m.n > 0),
    "regr_syy": lambda m: (m.yy, m.n > 0),
    "regr_sxy": lambda m: (m.xy, m.n > 0),
    "regr_slope": _slope,
    "regr_intercept": _intercept,
    "regr_r2": _r2,
}
PAIR_STATISTICS = tuple(_FUNCTIONS)


def pair_statistic(function: str, y: Array, x: Array, ids: Array, count: int) -> tuple[Array, Array]:
    """The statistic of each of `count` groups of pairs, and where there is one."""
    return _FUNCTIONS[function](_moments(y, x, ids, count))
