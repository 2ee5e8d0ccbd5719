"""skewness, kurtosis, sem, entropy and mad: how the values of each group are spread."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eventdb.batch import Array

Statistic = Callable[[Array, Array, int], tuple[Array, Array]]


def _centred(values: Array, ids: Array, count: int, power: int) -> tuple[Array, Array, Array]:
    """How many values each group has, and its central moments of order 2 and `power`."""
    n = np.bincount(ids, minlength=count)
    some = np.maximum(n, 1)
    distance = values - (np.bincount(ids, weights=values, minlength=count) / some)[ids]
    second, other = (np.bincount(ids, weights=distance**p, minlength=count) / some for p in (2, power))
    return n, second, other


def skewness(values: Array, ids: Array, count: int) -> tuple[Array, Array]:
    """Corrected for the bias of a sample; NULL for fewer than three values or equal ones."""
    n, second, third = _centred(values, ids, count, 3)
    valid = (n > 2) & (second > 0)
    spread = np.where(valid, second, 1.0) ** 1.5
    return np.sqrt(n * np.maximum(n - 1.0, 0.0)) / np.maximum(n - 2, 1) * third / spread, valid


def kurtosis_pop(values: Array, ids: Array, count: int) -> tuple[Array, Array]:
    """Excess kurtosis; NULL for fewer than two values or equal ones."""
    n, second, fourth = _centred(values, ids, count, 4)
    valid = (n > 1) & (second > 0)
    return fourth / np.where(valid, second, 1.0) ** 2 - 3.0, valid


def kurtosis(values: Array, ids: Array, count: int) -> tuple[Array, Array]:
    """Excess kurtosis corrected for the bias of a sample; NULL for fewer than four values or equal ones."""
    n, second, fourth = _centred(values, ids, count, 4)
    valid = (n > 3) & (second > 0)
    ratio = fourth / np.where(valid, second, 1.0) ** 2
    corrected = (n - 1.0) * ((n + 1) * ratio - 3.0 * (n - 1)) / np.where(valid, (n - 2.0) * (n - 3.0), 1.0)
    return corrected, valid


def sem(values: Array, ids: Array, count: int) -> tuple[Array, Array]:
    """Standard error of the mean, sqrt(var_pop / n)."""
    n, second, _ = _centred(values, ids, count, 2)
    return np.sqrt(second / np.maximum(n, 1)), n > 0


def median_of_sorted(values: Array, starts: Array, stops: Array) -> Array:
    """The median of each stretch [start, stop) of sorted values; unspecified for empty ones."""
    last = max(len(values) - 1, 0)
    low = np.clip((starts + stops - 1) // 2, 0, last)
    high = np.clip((starts + stops) // 2, 0, last)
    result: Array = values[low] + np.where(high > low, (values[high] - values[low]) * 0.5, 0.0)
    return result


def mad(values: Array, ids: Array, count: int) -> tuple[Array, Array]:
    """Median of the distances from the median."""
    edges = np.searchsorted(ids, np.arange(count + 1))
    valid = edges[1:] > edges[:-1]
    if not len(values):
        return np.zeros(count), valid
    middle = median_of_sorted(values[np.lexsort((values, ids))], edges[:-1], edges[1:])
    distance = np.abs(values - middle[ids])
    return median_of_sorted(distance[np.lexsort((distance, ids))], edges[:-1], edges[1:]), valid


SHAPE_STATISTICS: dict[str, Statistic] = {
    "skewness": skewness, "kurtosis": kurtosis, "kurtosis_pop": kurtosis_pop, "sem": sem, "mad": mad,
}  # fmt: skip
"""Values in groups (ids ascending), how many groups: the statistic of each, and where there is one."""
