"""The directory under repair, as each part of it sees it: its files, what was done and lost so far, the quarantine."""

from __future__ import annotations

import contextlib

from eventdb.storage.index.kv import Index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventdb.storage.device.files import Files


class RepairSite:
    """`done` and `lost` are sentences; nothing may be changed before `accept` is known to cover what is lost."""

    def __init__(self, files: Files, path: str, *, accept: bool) -> None:
        self.files = files
        self.path = path
        self.accept = accept
        self.done: list[str] = []
        self.lost: list[str] = []
        self._aside = f"{path}/quarantine"

    def report(self) -> dict[str, list[str]]:
        """{"repaired": [...], "lost": [...]}; files are named as they lie in the directory."""
        return {
            kind: [text.replace(f"{self.path}/", "") for text in texts]
            for kind, texts in (("repaired", self.done), ("lost", self.lost))
        }

    @contextlib.contextmanager
    def opened(self, folder: str) -> Iterator[Index]:
        """The index in the folder."""
        index = Index(self.files, folder)
        try:
            yield index
        finally:
            index.close()

    def read(self, path: str) -> bytes:
        """All of a file."""
        fd = self.files.open(path)
        try:
            return self.files.pread(fd, self.files.size(fd), 0)
        finally:
            self.files.close(fd)

    def put_aside(self, name: str) -> None:
        """The file or folder lies in quarantine/ under a name of its own."""
        files = self.files
        if not files.exists(f"{self.path}/{name}"):
            return
        if not files.is_directory(self._aside):
            files.mkdir(self._aside)
        target, number = f"{self._aside}/{name.replace('/', '-')}", 1
        while files.exists(f"{target}.{number}"):
            number += 1
        files.rename(f"{self.path}/{name}", f"{target}.{number}")
        files.fsync_dir(self._aside)
