"""`eventdb import`: files into a topic, in batches, each batch one commit."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import eventdb
from eventdb.errors import EventDBError, QueryCancelled, TopicNotFound, UsageError

from .completion import quote_name
from .describe import find_topic
from .interrupt import run_cancellable
from .progress import Progress, format_rate
from .streams import Streams

if TYPE_CHECKING:
    from eventdb.external.csv import CsvOptions

FORMATS = ("csv", "json", "parquet", "arrow")
SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class ImportOptions:
    """`skip_rows` of the file are left out (they were committed by an earlier try); 0 <= skip_rows."""

    format: str | None = None
    event_time: str | None = None
    key: str | None = None
    skip_rows: int = 0
    durability: str = "commit"
    delimiter: str | None = None
    encoding: str = "utf-8"
    header: bool = True
    quote: str = '"'


def import_file(streams: Streams, path: str, topic_name: str, source: str, options: ImportOptions) -> int:
    """Append every row of a file to a topic, made from the file's columns if missing. Returns the exit status.

    On failure stderr says how many rows of the file are in the topic: a batch is committed whole or not at all.
    """
    with _as_file(streams, source) as (file, shown):
        format = options.format or _detect(file, source)
        with eventdb.open(path, durability=options.durability) as db:
            name, rows = quote_name(topic_name), "file.csv" if source == "-" else source
            advice = f"fill it with eventdb {path} -c \"INSERT INTO {name} SELECT * FROM '{rows}'\""
            with _explained(file, source):
                csv = _csv_options(format, options)
                topic, created = _topic_for(db, topic_name, file, format, options, csv, advice)
                if csv is not None and created:
                    csv = replace(csv, keeps_zeros=True)
            progress = Progress(streams.stderr, _estimate_rows(file, format, options.skip_rows))
            stopping = threading.Event()

            def load() -> None:
                committed = 0
                with _explained(file, source):
                    for batch in _batches(topic, file, format, options.skip_rows, csv):
                        if stopping.is_set():
                            raise QueryCancelled("interrupted")
                        committed += len(topic.append_batch(batch))
                        progress.advance(committed)

            try:
                run_cancellable(load, stopping.set)
            except EventDBError as error:
                progress.finish()
                streams.fail(error, shown if shown not in str(error) else "")
                _explain(streams, db, topic_name, created, progress.rows, options.skip_rows)
                return 1
            progress.finish()
            committed = progress.rows
    rate = format_rate(committed / progress.elapsed_s)
    made = "new topic" if created else "topic"
    streams.note(f"{committed:,} rows into {made} {topic_name} in {progress.elapsed_s:.2f} s ({rate})")
    return 0


def _explain(
    streams: Streams, db: eventdb.Database, topic_name: str, created: bool, committed: int, skipped: int
) -> None:
    """Say on stderr what a failed import left behind; a topic it made and put nothing into goes again."""
    if committed:
        done = skipped + committed
        streams.note(
            f"stopped: {committed:,} rows were committed to {topic_name} and stay; "
            f"mend the file and go on with --skip-rows {done}"
        )
        return
    if created:
        db.drop_topic(topic_name)
    streams.note(f"stopped: no row was committed{'; the new topic was dropped' if created else ''}")


@contextmanager
def _explained(file: str, source: str) -> Iterator[None]:
    """A reader's message without the name of the spool file, and with what JSON has to look like."""
    try:
        yield
    except UsageError as error:
        text = str(error)
        if "JSON parse error" in text:
            text += " (JSON lines are expected: one object a line, no array around them)"
        if source == "-":
            text = text.replace(repr(file), "standard input")
        if text == str(error):
            raise
        raise UsageError(text) from None


def _topic_for(
    db: eventdb.Database, name: str, file: str, format: str, options: ImportOptions, csv: CsvOptions | None, advice: str
) -> tuple[eventdb.Topic, bool]:
    """The topic and whether it was made now. UsageError when the file's columns do not fit it, or, with the advice, for
    a table."""
    from eventdb.external.files import open_files

    try:
        topic = find_topic(db, name, advice)
    except TopicNotFound:
        schema = open_files([file], format, None if csv is None else replace(csv, refuses_commas=True)).schema
        columns = {field.name: str(field.type) for field in schema}
        for option, column in (("--event-time", options.event_time), ("--key", options.key)):
            if column is not None and schema.find(column) is None:
                raise UsageError(
                    f"{option} {column}: the file has no such column; it has {', '.join(schema.names)}"
                ) from None
        return db.create_topic(name, columns, key=options.key, event_time=options.event_time), True
    schema = open_files([file], format, csv).schema
    unknown = [n for n in schema.names if topic.schema.find(n) is None]
    if unknown:
        raise UsageError(
            f"the file's column {unknown[0]!r} is not in topic {name!r}, which has {', '.join(topic.schema.names)}"
        )
    missing = [f.name for f in topic.schema if not f.nullable and schema.find(f.name) is None]
    if missing:
        raise UsageError(f"column {missing[0]!r} of topic {name!r} is NOT NULL and the file does not have it")
    if options.key or options.event_time:
        raise UsageError(f"topic {name!r} exists: --key and --event-time are for a new topic")
    return topic, False


def _csv_options(format: str, options: ImportOptions) -> CsvOptions | None:
    from eventdb.external.csv import CsvOptions

    found = CsvOptions(options.delimiter, options.encoding, options.header, options.quote)
    if format == "csv":
        return found
    if found != CsvOptions():
        raise UsageError(f"--delimiter, --encoding, --no-header and --quote are for CSV, and this is {format}")
    return None


def _batches(
    topic: eventdb.Topic, file: str, format: str, skip_rows: int, csv: CsvOptions | None
) -> Iterator[object]:  # fmt: skip
    """The rows of a file after the first `skip_rows`, with the topic's types."""
    from eventdb.external.files import open_files

    source = open_files([file], format, csv)
    names = source.schema.names
    types = [topic.schema.fields[topic.schema.index_of(name)].type for name in names]
    for batch in source.batches(names, types):
        if skip_rows >= len(batch):
            skip_rows -= len(batch)
            continue
        yield batch.slice(skip_rows, len(batch)) if skip_rows else batch
        skip_rows = 0


@contextmanager
def _as_file(streams: Streams, source: str) -> Iterator[tuple[str, str]]:
    """(a path to read, the name to show). `-` spools the input to a temporary file: readers need to seek."""
    if source != "-":
        if not os.path.exists(source):
            raise UsageError(f"file {source} does not exist")
        if os.path.isdir(source):
            raise UsageError(f"{source} is a directory, not a file")
        yield source, source
        return
    raw = getattr(streams.stdin, "buffer", None)
    with tempfile.NamedTemporaryFile(prefix="eventdb-import-") as spool:
        if raw is not None:
            shutil.copyfileobj(raw, spool, 1 << 20)
        else:
            while text := streams.stdin.read(1 << 20):
                spool.write(text.encode())
        spool.flush()
        if not spool.tell():
            raise UsageError("standard input is empty")
        yield spool.name, "standard input"


def _detect(file: str, source: str) -> str:
    """The format by name, or by content for standard input."""
    from eventdb.external.files import detect_format

    if source != "-":
        try:
            return detect_format(source)
        except UsageError as error:
            raise UsageError(f"{error}; or say --format {'|'.join(FORMATS)}") from None
    with open(file, "rb") as opened:
        head = opened.read(64).lstrip()
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    return "json" if head.startswith((b"{", b"[{")) else "csv"


def _estimate_rows(file: str, format: str, skip_rows: int) -> int | None:
    """About how many rows a text file has, from the length of its first lines; None if there is no telling."""
    if format not in ("csv", "json"):
        return None
    size = os.path.getsize(file)
    with open(file, "rb") as opened:
        sample = opened.read(SAMPLE_BYTES)
    lines = sample.count(b"\n")
    if not lines or sample.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh")):  # compressed: lines mean nothing
        return None
    rows = lines if len(sample) == size else int(size / (len(sample) / lines))
    return max(1, rows - (format == "csv") - skip_rows)
