"""Hand-written kernels for queries that must not wait: ready, or on their way.

A query that does not want to wait asks `is_ready`. If a family is not loaded yet, a request for an empty pipeline that
names it goes the way of the generated ones: a helper process compiles the family, a thread of this process loads it.
"""

from __future__ import annotations

from eventdb.kernels.cache import has_numba, intrinsics_stamp
from eventdb.kernels.service import SERVICE

JOIN_MARK = "# with the kernels of joins"
_SOURCE = f"{JOIN_MARK}, intrinsics {intrinsics_stamp()}\ndef pipeline(n):\n    return np.int64(n)\n"


def joins_are_ready(wait: bool) -> bool:
    """Whether the kernels of joins can be called without compiling. `wait`: however long it takes."""
    if not has_numba():
        return False
    request = SERVICE.find(_SOURCE, ("i8",))
    if wait:
        request.wait()
    return request.kernel is not None
