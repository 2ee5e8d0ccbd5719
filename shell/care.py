"""`eventdb check`, `eventdb stats`, `eventdb compact`, `eventdb run`: care from outside."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import socket
import threading
from collections.abc import Mapping

import eventdb
from eventdb.errors import CorruptionError, NotADatabase

from .render import format_value
from .streams import Streams


def check(streams: Streams, path: str, deep: bool) -> int:
    """Verify a database; every problem is a line of stdout. 0 if whole, 1 if not."""
    problems = eventdb.check(path, deep=deep)
    for problem in problems:
        streams.print(problem)
    if problems:
        streams.note(f"error: {path}: {len(problems)} problem{'' if len(problems) == 1 else 's'} found")
        return 1
    streams.print("ok")
    return 0


def repair(streams: Streams, path: str, accept_loss: bool) -> int:
    """Repair a database; every change and every loss is a line of stdout. 0 once it opens again."""
    try:
        report = eventdb.repair(path, accept_loss=accept_loss)
    except CorruptionError as error:
        raise CorruptionError(str(error).replace("accept_loss=True", "--accept-loss"), path=path) from error
    for text in report["repaired"]:
        streams.print(f"repaired: {text}")
    for text in report["lost"]:
        streams.print(f"lost: {text}")
    if not any(report.values()):
        streams.print("nothing to repair")
    streams.stdout.flush()
    eventdb.open(path).close()  # raises why not
    return 0


def require(path: str) -> None:
    """NotADatabase for a missing path, which opening would make a new database."""
    if not os.path.exists(path):
        raise NotADatabase(f"{path} does not exist", path=path)


def backup(streams: Streams, path: str, target: str) -> int:
    """Back up a database, which may be in use."""
    with eventdb.open(path, read_only=True) as db:
        streams.print(format_stats(db.backup(target)))
    return 0


def restore(streams: Streams, path: str, target: str, to_time: dt.datetime | None) -> int:
    """Make `target` a database with the content of a backup."""
    streams.print(format_stats(eventdb.restore(path, target, to_time=to_time)))
    return 0


def stats(streams: Streams, path: str, as_json: bool) -> int:
    """Print the counters of a database."""
    with eventdb.open(path, read_only=True) as db:
        counters = db.stats()
    streams.print(json.dumps(counters, default=format_value) if as_json else format_stats(counters))
    return 0


def compact(streams: Streams, path: str, full: bool) -> int:
    """Seal the history of a database now, and say what it took and takes."""
    require(path)
    with eventdb.open(path) as db:
        done = db.compact(full=full)
    if done["versions_removed"]:
        streams.print(f"removed {done['versions_removed']:,} superseded versions of tables' rows")
    if not done["rows"]:
        streams.print("nothing to seal")
        return 0
    streams.print(
        f"sealed {done['rows']:,} rows of {done['segments']:,} segments: "
        f"{done['bytes_before'] / 1e6:,.1f} MB became {done['bytes_after'] / 1e6:,.1f} MB"
    )
    return 0


def format_stats(counters: Mapping[str, object]) -> str:
    """One `name  value` line per counter; nested ones are named parent.child."""
    flat = dict(_flatten(counters, ""))
    width = max(map(len, flat), default=0)
    return "\n".join(f"{name:{width}}  {_format_counter(value)}" for name, value in flat.items())


def _flatten(counters: Mapping[str, object], prefix: str) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in counters.items():
        if isinstance(value, Mapping) and value:
            found += _flatten(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def _format_counter(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(format_value, value)) or "none"
    return format_value(value) if value not in ({}, "") else "none"


def tell_service_manager(text: str) -> None:
    """What systemd expects of a service of Type=notify; nothing where it does not ask (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire, contextlib.suppress(OSError):
        wire.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)


def run(streams: Streams, path: str, durability: str) -> int:
    """Keep the views of a database going until SIGTERM or SIGINT, then close it cleanly."""
    require(path)
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with eventdb.open(path, durability=durability) as db:
            db.on("failed", lambda view, error: streams.note(f"view {view} failed: {error}"))
            db.on("restarted", lambda view, error: streams.note(f"view {view} goes on"))
            views = [str(row[0]) for row in db.sql("SHOW VIEWS").fetchall()]
            named = ", ".join(views) or "none"
            streams.note(f"running {path}: views {named}; stop with SIGTERM or Ctrl-C")
            tell_service_manager("READY=1")
            while not stop.wait(1.0):
                db.topics()  # looks for views that others have created
            tell_service_manager("STOPPING=1")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    streams.note("stopped")
    return 0
