"""Result: the rows a statement returned, as Python values, Arrow, pandas, Polars or text."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from eventdb.batch import RecordBatch
from eventdb.errors import UsageError
from eventdb.schema import DataType

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

HTML_CELL_CHARACTERS = 200
_RIGHT = ' style="text-align: right"'


class Result:
    """The answer to one statement. Rows are fetched once, like a cursor; `arrow`, `df`, `pl`, `batches` and `show`
    always give all of them. Rows of a result larger than memory_limit lie in a temporary file; those methods, except
    `batches` and `show`, bring all of them into memory.

    A statement that returns no rows (DDL) has no columns. `rowcount` is the number of rows returned, or changed by an
    INSERT.
    """

    __slots__ = ("_batch_index", "_batches", "_counts", "_pending", "columns", "rowcount", "types")

    def __init__(
        self,
        columns: Sequence[str],
        types: Sequence[DataType],
        batches: Sequence[RecordBatch],
        rowcount: int | None = None,
    ) -> None:
        self.columns = list(columns)
        self.types = list(types)
        self._batches = [batch for batch in batches if len(batch)] if isinstance(batches, list | tuple) else batches
        counts: list[int] | None = getattr(self._batches, "row_counts", None)  # without reading them from disk
        self._counts = [len(batch) for batch in self._batches] if counts is None else counts
        self.rowcount = sum(self._counts) if rowcount is None else rowcount
        self._batch_index = 0
        self._pending: Iterator[tuple[Any, ...]] = iter(())

    def __repr__(self) -> str:
        if not self.columns:
            return f"Result({self.rowcount} rows changed)"
        return f"Result({', '.join(self.columns)}; {len(self)} rows)"

    def __len__(self) -> int:
        return sum(self._counts)

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row, None after the last."""
        while True:
            row = next(self._pending, None)
            if row is not None or self._batch_index == len(self._batches):
                return row
            self._pending = iter(self._batches[self._batch_index].to_pylist())
            self._batch_index += 1

    def fetchmany(self, size: int = 1) -> list[tuple[Any, ...]]:
        """The next rows, `size` at most; [] after the last."""
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise UsageError(f"fetchmany takes a row count of 0 or more, not {size!r}")
        rows: list[tuple[Any, ...]] = []
        while len(rows) < size and (row := self.fetchone()) is not None:
            rows.append(row)
        return rows

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows not fetched yet."""
        rows = list(self._pending)
        for i in range(self._batch_index, len(self._batches)):
            rows.extend(self._batches[i].to_pylist())
        self._batch_index = len(self._batches)
        return rows

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        while (row := self.fetchone()) is not None:
            yield row

    def batches(self) -> Iterator[RecordBatch]:
        """All rows as read-only columnar batches."""
        return iter(self._batches)

    def arrow(self) -> pyarrow.Table:
        """All rows as a pyarrow.Table; fixed-width columns without NULLs are not copied."""
        from eventdb.arrow import table_to_arrow

        return table_to_arrow(self.columns, self.types, self._batches)

    def df(self) -> pandas.DataFrame:
        """All rows as a pandas DataFrame. UsageError if pandas is not installed."""
        try:
            import pandas  # noqa: F401
        except ImportError:
            raise UsageError("df() needs pandas: pip install pandas") from None
        return self.arrow().to_pandas()

    def pl(self) -> polars.DataFrame:
        """All rows as a Polars DataFrame. UsageError if polars is not installed."""
        try:
            import polars
        except ImportError:
            raise UsageError("pl() needs polars: pip install polars") from None
        frame = polars.from_arrow(self.arrow())
        assert isinstance(frame, polars.DataFrame)
        return frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The Arrow PyCapsule stream: Polars, DuckDB, pandas and pyarrow read a Result directly. UsageError if its
        columns cannot be cast to `requested_schema`, the capsule of a schema with the same names."""
        from eventdb.arrow import stream_capsule

        return stream_capsule(self.arrow(), requested_schema)

    def __arrow_c_schema__(self) -> object:
        from eventdb.arrow import arrow_schema

        return arrow_schema(self.columns, self.types).__arrow_c_schema__()

    def show(self, max_rows: int = 40) -> None:
        """Print the rows as an aligned table, the middle left out beyond `max_rows`."""
        sys.stdout.write(self.to_text(max_rows) + "\n")

    def to_text(self, max_rows: int = 40) -> str:
        """What `show` prints."""
        if not self.columns:
            return f"{self.rowcount} rows changed"
        total = len(self)
        head = total if total <= max_rows else (max_rows + 1) // 2
        tail = 0 if total <= max_rows else max_rows // 2
        rows = self._rows(0, head) + self._rows(total - tail, total)
        cells = [["NULL" if v is None else str(v).replace("\n", "\\n") for v in row] for row in rows]
        heads = [self.columns, [str(t).lower() for t in self.types]]
        widths = [max(len(line[i]) for line in heads + cells) for i in range(len(self.columns))]
        right = [t.is_numeric for t in self.types]

        def line(values: Sequence[str]) -> str:
            padded = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)]
            return "  ".join(padded).rstrip()

        lines = [line(heads[0]), line(heads[1]), line(["-" * w for w in widths])]
        lines += [line(row) for row in cells[:head]]
        if tail:
            lines += [f"... {total - head - tail} rows more ...", *[line(row) for row in cells[head:]]]
        lines.append(f"({total} row{'' if total == 1 else 's'})")
        return "\n".join(lines)

    def _repr_html_(self, max_rows: int = 40) -> str:
        """What a notebook shows: the rows as a table, escaped, the middle left out beyond `max_rows`, and their number.
        Long values are cut."""
        from html import escape

        if not self.columns:
            return f"<p>{self.rowcount} rows changed</p>"
        total = len(self)
        tail = 0 if total <= max_rows else max_rows // 2
        head = min(total, max_rows - tail)

        def line(row: Sequence[Any]) -> str:
            cells = [(type, "NULL" if v is None else str(v)) for type, v in zip(self.types, row, strict=True)]
            cells = [(t, text if len(text) <= HTML_CELL_CHARACTERS else text[: HTML_CELL_CHARACTERS - 1] + "…")
                     for t, text in cells]  # fmt: skip
            made = [f"<td{_RIGHT if t.is_numeric else ''}>{escape(text)}</td>" for t, text in cells]
            return f"<tr>{''.join(made)}</tr>"

        heads = "".join(
            f"<th>{escape(name)}<br><small>{escape(str(type).lower())}</small></th>"
            for name, type in zip(self.columns, self.types, strict=True)
        )
        body = [line(row) for row in self._rows(0, head)]
        if tail:
            body.append(f'<tr><td colspan="{len(self.columns)}">… {total - head - tail} rows more …</td></tr>')
            body += [line(row) for row in self._rows(total - tail, total)]
        count = f"<p>{total} row{'' if total == 1 else 's'}</p>"
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>{count}"

    def _rows(self, start: int, stop: int) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        first = 0
        for i, count in enumerate(self._counts):
            low, high = max(start - first, 0), min(stop - first, count)
            if low < high:
                rows.extend(self._batches[i].slice(low, high).to_pylist())
            first += count
        return rows
