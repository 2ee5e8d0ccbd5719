"""A walk through an index file that does not use LMDB's engine, which a damaged file can kill: py-lmdb's verifier.

It is corrected in one point. A long value that a shorter one replaces in the same transaction keeps its pages, so that
its page header may name more of them than the value needs; LMDB frees as many as the header names (mdb_cursor_put and
mdb_ovpage_free; mdb_freelist_save shortens its own records in this way). The verifier takes that for damage.
"""

from __future__ import annotations

import os
from typing import Any

from lmdb.verify import VerifyError, _Verifier

_untyped: Any = _Verifier


class _Walk(_untyped):  # type: ignore[misc]
    def _bigdata(
        self, ctx: Any, pgno: int, i: int, buf: bytes, doff: int, dsize: int, want_bytes: bool
    ) -> bytes | None:
        """Takes the value for one that fills the pages its header names, if those are more than it needs."""
        need = (self.hdrsz - 1 + dsize) // self.psize + 1
        held = need
        if doff + 8 <= self.psize:
            first = self.read_page(int.from_bytes(buf[doff : doff + 8], "little"))
            held = need if first is None else self._pg_pages(first, 0)
        if not need < held <= self.next_pgno:
            held = need
        size = dsize if held == need else held * self.psize - self.hdrsz
        found: bytes | None = _untyped._bigdata(self, ctx, pgno, i, buf, doff, size, want_bytes)
        return None if found is None else found[:dsize]


def problems_of(path: str) -> list[str]:
    """What is wrong with the structure of the file at the path, in words; nothing if LMDB may open it."""
    try:
        with open(path, "rb") as file:
            walk: Any = _Walk(file, os.fstat(file.fileno()).st_size)
            return [str(problem) for problem in walk.verify()]
    except (VerifyError, OSError, ValueError, IndexError) as error:
        return [str(error)]
