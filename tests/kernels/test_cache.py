"""The kernel directory holds code: nobody but the user may have written what is loaded from it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from eventdb.kernels import cache

KEY = cache.kernel_key("source", "i8")
posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes are POSIX")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private cache home; every test has its own, so the memory of earlier judgements does not matter."""
    base = tmp_path / "cache"
    base.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(base))
    return base


def kernels(base: Path) -> Path:
    return base / "eventdb" / f"kernels-{cache.versions()}"


def test_the_directory_is_made_private_and_named_by_versions(home: Path) -> None:
    assert cache.directory() == str(kernels(home))
    assert kernels(home).stat().st_mode & 0o777 == 0o700
    assert "numba" in cache.versions()


def test_what_is_written_is_read_back_and_keys_do_not_collide(home: Path) -> None:
    assert cache.read(KEY) is None
    assert not cache.exists(KEY)
    assert cache.write(KEY, b"machine code")
    assert cache.exists(KEY)
    assert cache.read(KEY) == b"machine code"
    assert cache.kernel_key("ab", "c") != cache.kernel_key("a", "bc")
    assert [p.name for p in kernels(home).iterdir()] == [f"{KEY}.kernel"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_file_is_no_kernel(home: Path, damage: str) -> None:
    cache.write(KEY, b"machine code" * 100)
    path = kernels(home) / f"{KEY}.kernel"
    data = path.read_bytes()
    bad = {"cut": data[:-1], "flipped": data[:-1] + b"x", "empty": b"", "foreign": pickle.dumps(1)}[damage]
    path.write_bytes(bad)
    assert cache.read(KEY) is None


@posix
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o755])
def test_a_directory_open_to_others_is_not_used(home: Path, mode: int) -> None:
    kernels(home).mkdir(parents=True)
    kernels(home).chmod(mode)
    assert cache.directory() is None
    assert not cache.write(KEY, b"code")
    assert cache.read(KEY) is None


@posix
def test_a_parent_that_others_may_replace_is_not_used(home: Path) -> None:
    (home / "eventdb").mkdir()
    (home / "eventdb").chmod(0o777)
    assert cache.directory() is None


@posix
def test_a_home_that_others_may_write_is_not_used(home: Path) -> None:
    home.chmod(0o777)
    assert cache.directory() is None


@posix
def test_a_link_in_place_of_the_directory_is_not_followed(home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    kernels(home).parent.mkdir()
    kernels(home).symlink_to(elsewhere)
    assert cache.directory() is None


@posix
def test_a_link_in_place_of_a_kernel_is_not_followed(home: Path, tmp_path: Path) -> None:
    cache.write(KEY, b"code")
    path = kernels(home) / f"{KEY}.kernel"
    path.rename(tmp_path / "planted")
    path.symlink_to(tmp_path / "planted")
    assert cache.read(KEY) is None


@posix
def test_a_kernel_others_may_write_is_not_read(home: Path) -> None:
    cache.write(KEY, b"code")
    (kernels(home) / f"{KEY}.kernel").chmod(0o666)
    assert cache.read(KEY) is None


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to give a file away")
def test_a_directory_of_another_user_is_not_used(home: Path) -> None:
    kernels(home).mkdir(parents=True, mode=0o700)
    os.chown(kernels(home), 12345, 12345)
    assert cache.directory() is None


def test_numbas_own_variables_do_not_move_the_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert cache.directory() == str(kernels(home))


def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.directory() == str(kernels(tmp_path / ".cache"))
