"""A disk that forgets: file operations on a real directory, with a second image of what a power cut would leave.

`SimulatedDisk` holds both images across crashes; `SimulatedFiles` is storage's seam onto it for one life of a
process. What is visible is the real directory (the page cache). What is durable is kept here: a file's bytes at its
last flush, a directory's entries at its last flush. A power cut leaves any legal mixture: of each file any subset of
the 512-byte sectors written since its flush, of each directory any subset of the entries changed since its flush.
Mapped files are read back through a descriptor, so stores into mappings count like writes. The index is such a file;
its flush is `sync_index`.

A flush that fails drops what it should have written, as Linux does: it stays visible, counts as clean, and no later
flush writes it; who forgets the cache sees the old bytes again (`drop_cache`).

A process crash leaves everything visible. Both take the image at the instant of the crash: what the dying code does
afterwards (handlers, `finally`) changes nothing.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from typing import Any

from eventdb.storage import store as store_module
from eventdb.storage.device.files import Clock, Files
from eventdb.storage.store import Store

SECTOR_BYTES = 512
PAGE_BYTES = 4096
UNTRACKED = ("lock.mdb",)  # LMDB's own: rebuilt by the first opener, says nothing about data


class Crash(BaseException):
    """The process is gone. Nothing it does from now on reaches the disk."""


class SimulatedFile:
    """One inode: `durable` is its content at the last flush, `dropped` what was visible when a flush failed."""

    def __init__(self, path: str, durable: bytes) -> None:
        self.path = path
        self.durable = durable
        self.dropped: bytes | None = None
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # keeps the content readable after an unlink

    def __del__(self) -> None:
        os.close(self.fd)

    def visible(self) -> bytes:
        return os.pread(self.fd, os.fstat(self.fd).st_size, 0)

    def reachable(self) -> bytes:
        """What a flush that succeeds now makes durable: not what an earlier one dropped, unless written since."""
        new = self.visible()
        if self.dropped is None:
            return new
        left = bytearray(new)
        for at in range(0, len(new), SECTOR_BYTES):
            sector = slice(at, min(at + SECTOR_BYTES, len(new)))
            if new[sector] == self.dropped[sector]:
                left[sector] = self.durable[sector].ljust(len(new[sector]), b"\0")
        return bytes(left)

    def flush(self) -> None:
        self.durable = self.reachable()

    def fail_to_flush(self) -> None:
        """Of a segment nothing is dropped: storing the same bytes through a mapping makes them dirty again, which
        cannot be seen from here."""
        if not self.path.endswith(".seg"):
            self.dropped = self.visible()

    def forget_cache(self, fd: int) -> None:
        """Pages that count as clean are read from the device again."""
        if self.dropped is not None:
            os.pwrite(fd, self.reachable(), 0)
            self.dropped = None


class SimulatedDirectory:
    """Entries by name; `log` holds the changes since the last flush as (name, new value or None)."""

    def __init__(self) -> None:
        self.durable: dict[str, Node] = {}
        self.visible: dict[str, Node] = {}
        self.log: list[list[tuple[str, Node | None]]] = []  # each entry is one atomic operation

    def change(self, *changes: tuple[str, Node | None]) -> None:
        self.log.append(list(changes))
        _apply(self.visible, list(changes))

    def flush(self) -> None:
        self.durable = dict(self.visible)
        self.log.clear()


Node = SimulatedFile | SimulatedDirectory
Image = dict[str, "bytes | None"]  # relative path -> content; None = a directory


def _apply(entries: dict[str, Node], changes: list[tuple[str, Node | None]]) -> None:
    for name, node in changes:
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


class SimulatedDisk:
    """Everything below `root`, which must be empty at the start."""

    def __init__(self, root: str, seed: int = 0) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.in_place = seed % 2 == 1  # what the file system is said to be: the journal is mapped, or written
        self.tree = SimulatedDirectory()
        self.odds: Callable[[str], float | None] = lambda path: None  # of unflushed changes to survive; None = draw
        self.boots = 0
        self.power_cuts = self.process_crashes = self.bytes_lost = self.entries_lost = 0

    def files(self) -> SimulatedFiles:
        return SimulatedFiles(self)

    def clock(self) -> SimulatedClock:
        return SimulatedClock(f"boot-{self.boots}")

    def node(self, path: str) -> Node:
        node: Node = self.tree
        for part in os.path.relpath(path, self.root).split("/"):
            assert isinstance(node, SimulatedDirectory)
            if part != ".":
                node = node.visible[part]
        return node

    def parent(self, path: str) -> tuple[SimulatedDirectory, str]:
        node = self.node(os.path.dirname(path))
        assert isinstance(node, SimulatedDirectory)
        return node, os.path.basename(path)

    # -- crashes -------------------------------------------------------------------------------

    def image(self, *, power: bool) -> Image:
        """What is left if it happens now."""
        image: Image = {}
        self._collect(self.tree, "", image, power)
        return image

    def _collect(self, directory: SimulatedDirectory, prefix: str, image: Image, power: bool) -> None:
        entries = self._surviving(directory, prefix) if power else directory.visible
        for name, node in entries.items():
            if isinstance(node, SimulatedDirectory):
                image[prefix + name] = None
                self._collect(node, f"{prefix}{name}/", image, power)
            else:
                image[prefix + name] = self._left_of(node, prefix + name) if power else node.visible()

    def _surviving(self, directory: SimulatedDirectory, path: str) -> dict[str, Node]:
        entries = dict(directory.durable)
        fixed = self.odds(path)
        odds = self.random.choice((0.0, 0.5, 0.5, 1.0)) if fixed is None else fixed
        for changes in directory.log:
            if self.random.random() < odds:
                _apply(entries, changes)
            else:
                self.entries_lost += 1
        return entries

    def _left_of(self, file: SimulatedFile, path: str) -> bytes:
        old, new = file.durable, file.reachable()
        fixed = self.odds(path)
        if old == new or fixed == 1.0:
            return new
        if fixed == 0.0:
            self.bytes_lost += sum(a != b for a, b in zip(old, new, strict=False))
            return old
        size = self.random.choice((len(old), len(new), len(new)))
        if len(new) > len(old):
            size = self.random.choice((len(old), len(new), self.random.randint(len(old), len(new))))
        odds = self.random.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        left = bytearray(max(len(old), len(new)))
        left[: len(old)] = old
        for page in range(0, len(new), PAGE_BYTES):
            kept = self.random.random() < odds
            torn = self.random.random() < 0.15
            if new[page : page + PAGE_BYTES] == old[page : page + PAGE_BYTES]:
                continue
            for at in range(page, min(page + PAGE_BYTES, len(new)), SECTOR_BYTES):
                sector = new[at : at + SECTOR_BYTES]
                if kept if not torn else self.random.random() < 0.5:
                    left[at : at + len(sector)] = sector
                elif sector != old[at : at + SECTOR_BYTES]:
                    self.bytes_lost += len(sector)
        return bytes(left[:size])

    def restart(self, image: Image, *, power: bool) -> None:
        """The directory holds the image: after a power cut all of it is durable, else what was durable still is.

        The crashed process must have let go of its files.
        """
        if not power:
            self.process_crashes += 1
            for path, content in image.items():
                node = self.node(os.path.join(self.root, path))
                if isinstance(node, SimulatedFile) and content is not None and node.visible() != content:
                    with open(os.path.join(self.root, path), "r+b") as out:
                        out.write(content)
                        out.truncate()
            return
        for name in os.listdir(self.root):
            shutil.rmtree(os.path.join(self.root, name))
        self.tree = SimulatedDirectory()
        for path in sorted(image):
            content = image[path]
            whole = os.path.join(self.root, path)
            directory, name = self.parent(whole)
            node: Node
            if content is None:
                os.mkdir(whole, 0o700)
                node = SimulatedDirectory()
            else:
                with open(whole, "wb") as out:
                    out.write(content)
                os.chmod(whole, 0o600)
                node = SimulatedFile(whole, content)
            directory.durable[name] = directory.visible[name] = node
        self.boots += 1
        self.power_cuts += 1


class SimulatedClock(Clock):
    """Time that moves a little at every look."""

    def __init__(self, boot: str, start_us: int = 1_700_000_000_000_000) -> None:
        self._boot = boot
        self._now_us = start_us
        self.monotonic_ns = self._tick  # type: ignore[method-assign]

    def _tick(self) -> int:
        self._now_us += 50
        return self._now_us * 1000

    def time_us(self) -> int:
        return self._tick() // 1000

    def boot_id(self) -> str:
        return self._boot


class SimulatedFiles(Files):
    """The seam of one life. A fault strikes at the `strike_at`-th counted operation; `fired` counts those that did."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.disk = disk
        self.open_files: dict[int, SimulatedFile] = {}
        self.operations = 0
        self.strike_at = -1
        self.strike: Callable[[str], None] | None = None
        self.short_every = 0  # each so-manieth write stores half of what it should
        self.writes = 0
        self.crashed = False
        self.fired = 0
        self.lost_power = False
        self.left: Image = {}
        self.log: list[str] = []

    # -- faults --------------------------------------------------------------------------------

    def crash_at(self, count: int, *, power: bool) -> None:
        """At the `count`-th operation from now on: before it if even, after it if odd (as `tick` is called)."""
        self.strike_at = self.operations + count
        self.strike = lambda name: self.crash(power=power)

    def fail_at(self, count: int, code: int, names: frozenset[str] = frozenset(), *, lasting: bool = False) -> None:
        """The `count`-th operation from now on, of those in `names` if given, fails; and all after it if `lasting`."""
        self.operations = 0
        self.strike_at = count

        def strike(name: str) -> None:
            self.fired += 1
            if lasting:
                self.strike_at = self.operations + 1
            raise OSError(code, os.strerror(code))

        self.strike = strike
        self.names = names

    names: frozenset[str] = frozenset()

    def heal(self) -> None:
        self.strike_at, self.strike = -1, None

    def crash(self, *, power: bool) -> None:
        """The image of this instant is what will be left. Always raises."""
        if not self.crashed:
            self.crashed = True
            self.fired += 1
            self.lost_power = power
            self.left = self.disk.image(power=power)
        raise Crash

    def tick(self, name: str) -> None:
        """A place where a fault may strike."""
        if self.crashed:
            raise Crash
        if self.names and name not in self.names:
            return
        self.operations += 1
        if self.operations == self.strike_at and self.strike is not None:
            self.log.append(name)
            self.strike(name)

    # -- what storage calls --------------------------------------------------------------------

    def pwrite(self, fd: int, data: bytes, position_bytes: int) -> int:  # type: ignore[override]
        self.writes += 1
        if self.short_every and len(data) > 1 and self.writes % self.short_every == 0:
            self.fired += 1
            return os.pwrite(fd, data[: len(data) // 2], position_bytes)
        self.tick("pwrite")
        done = os.pwrite(fd, data, position_bytes)
        self.tick("pwrite")
        return done

    def _flush(self, name: str, file: SimulatedFile) -> None:
        try:
            self.tick(name)
        except OSError:
            file.fail_to_flush()
            raise
        file.flush()
        self.tick(name)

    def fdatasync(self, fd: int) -> None:  # type: ignore[override]
        self._flush("fdatasync", self.open_files[fd])

    def begin_fdatasync(self, fd: int) -> Callable[[], None]:
        """Done at once, so that every run meets the same operations in the same order."""
        errors: list[OSError] = []
        try:
            self.fdatasync(fd)
        except OSError as error:
            errors.append(error)

        def finish() -> None:
            if errors:
                raise errors[0]

        return finish

    def fsync(self, fd: int) -> None:
        self._flush("fsync", self.open_files[fd])

    def fsync_dir(self, path: str) -> None:
        self.tick("fsync_dir")
        if not os.path.isdir(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if os.path.abspath(path) == os.path.dirname(self.disk.root):
            return
        node = self.disk.node(path)
        assert isinstance(node, SimulatedDirectory)
        node.flush()
        self.tick("fsync_dir")

    def sync_index(self, sync: Callable[[bool], None], path: str) -> None:
        node = self.disk.node(path)
        assert isinstance(node, SimulatedFile)
        self._flush("sync_index", node)

    def flock(self, fd: int, operation: int) -> None:  # type: ignore[override]
        Files.flock(fd, operation)

    def open(self, path: str, *, write: bool = False) -> int:
        self.tick("open")
        fd = super().open(path, write=write)
        node = self.disk.node(path)
        assert isinstance(node, SimulatedFile)
        self.open_files[fd] = node
        return fd

    def create(self, path: str, *, exclusive: bool = True) -> int:
        self.tick("create")
        existed = os.path.lexists(path)
        fd = super().create(path, exclusive=exclusive)
        if not existed:
            directory, name = self.disk.parent(path)
            directory.change((name, SimulatedFile(path, b"")))
        node = self.disk.node(path)
        assert isinstance(node, SimulatedFile)
        self.open_files[fd] = node
        return fd

    def create_unnamed(self, directory: str) -> int:
        self.tick("create_unnamed")
        fd = super().create_unnamed(directory)
        self.open_files[fd] = SimulatedFile(f"/proc/self/fd/{fd}", b"")
        return fd

    def give_name(self, fd: int, path: str) -> None:
        self.tick("give_name")
        super().give_name(fd, path)
        node = self.open_files[fd]
        node.path = path
        directory, name = self.disk.parent(path)
        directory.change((name, node))
        self.tick("give_name")

    def close(self, fd: int) -> None:
        self.open_files.pop(fd, None)
        super().close(fd)

    def allocate(self, fd: int, length_bytes: int) -> None:
        self.tick("allocate")
        super().allocate(fd, length_bytes)

    def mmap(self, fd: int, length_bytes: int, *, write: bool = False) -> Any:
        self.tick("mmap")
        return super().mmap(fd, length_bytes, write=write)

    def overwrites_in_place(self, path: str) -> bool:
        return self.disk.in_place

    def drop_cache(self, fd: int) -> None:
        self.tick("drop_cache")
        self.open_files[fd].forget_cache(fd)

    def rename(self, source: str, target: str) -> None:
        self.tick("rename")
        super().rename(source, target)
        directory, name = self.disk.parent(source)
        directory.change((os.path.basename(target), directory.visible[name]), (name, None))

    def unlink(self, path: str) -> None:
        self.tick("unlink")
        super().unlink(path)
        if os.path.basename(path) not in UNTRACKED:
            directory, name = self.disk.parent(path)
            directory.change((name, None))

    def mkdir(self, path: str) -> None:
        self.tick("mkdir")
        super().mkdir(path)
        directory, name = self.disk.parent(path)
        directory.change((name, SimulatedDirectory()))

    def rmdir(self, path: str) -> None:
        self.tick("rmdir")
        super().rmdir(path)
        directory, name = self.disk.parent(path)
        directory.change((name, None))

    def duplicate(self, fd: int) -> int:
        copy = super().duplicate(fd)
        self.open_files[copy] = self.open_files[fd]
        return copy

    def pread(self, fd: int, length_bytes: int, position_bytes: int) -> bytes:
        self.tick("pread")
        return super().pread(fd, length_bytes, position_bytes)

    def listdir(self, path: str) -> list[str]:
        self.tick("listdir")
        return super().listdir(path)


def let_go(store: Store) -> None:
    """The store's process is dead: its descriptors and mappings go, without a word to the disk."""
    store_module._stores.pop(store._identity, None)
    store._notifier.close()
    store._release()
