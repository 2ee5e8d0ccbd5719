"""Generated sources become kernels once, with one signature, and come back from disk without a compile."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.compiler_lock import global_compiler_lock

from eventdb.kernels import cache, hashing, intrinsics, jit, join, service, slots
from eventdb.physical.codegen import frozen

SOURCE = """
def pipeline(n, c, out):
    bad = False
    total = np.int64(0)
    for i in range(n):
        total, wrapped = checked_add(total, np.int64(c[i]))
        bad |= wrapped
        out[i] = fast_add(float_of(bits_of(out[i])), 1.0)
    return np.int64(-1) if bad else total
"""
TOKENS = ("i8", "i4[]", "f8[w]")
compiles = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled: NUMBA_DISABLE_JIT is set")


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_kernel_computes_has_one_signature_and_refuses_other_types() -> None:
    kernel = jit.build(SOURCE, TOKENS)
    out = np.zeros(5)
    assert kernel(5, frozen(np.arange(5, dtype=np.int32)), out) == 10
    assert out.tolist() == [1.0] * 5
    assert kernel is jit.build(SOURCE, TOKENS)
    if not hasattr(kernel, "signatures"):
        return  # NUMBA_DISABLE_JIT: the function itself
    assert jit.signature_count(kernel) == 1
    with pytest.raises(TypeError, match="No matching definition"):
        kernel(5, frozen(np.arange(5.0)), out)
    kernel(5, np.arange(5, dtype=np.int32), out)  # a writable array is taken as a read-only one
    assert jit.signature_count(kernel) == 1


@compiles
def test_a_stored_kernel_loads_in_another_process_without_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    text = SOURCE + "# another process\n"
    jit.build(text, TOKENS)
    assert cache.exists(cache.kernel_key(text, *TOKENS))
    program = f"""
import numpy as np
from numba.core import compiler
def refuse(*args, **kwargs):
    raise AssertionError("compiled again")
compiler.compile_extra = refuse
from eventdb.kernels import jit
kernel = jit.load({text!r}, {TOKENS!r})
data = np.arange(4, dtype=np.int32)
data.flags.writeable = False
assert kernel(4, data, np.zeros(4)) == 6
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2], timeout=60)


@compiles
def test_a_kernel_is_not_loaded_while_another_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both filled Numba's registries at once: ValueError, generator already executing."""
    text = SOURCE + "# while another is compiled\n"
    jit.build(text, TOKENS)
    jit._loaded.clear()
    load, began, done = jit.DiskCache.load_overload, threading.Event(), threading.Event()

    def load_and_tell(*args: Any) -> Any:
        began.set()
        return load(*args)

    monkeypatch.setattr(jit.DiskCache, "load_overload", load_and_tell)
    thread = threading.Thread(target=lambda: (jit.load(text, TOKENS), done.set()))
    with global_compiler_lock:  # as a compile does
        thread.start()
        assert not began.wait(0.5)
    assert done.wait(30)
    thread.join()


@compiles
def test_a_kernel_of_another_processor_is_a_miss() -> None:
    text = SOURCE + "# another processor\n"
    jit.build(text, TOKENS)
    key = cache.kernel_key(text, *TOKENS)
    data = cache.read(key)
    assert data is not None
    import pickle

    machine, reduced = pickle.loads(data)
    cache.write(key, pickle.dumps((("other", *machine[1:]), reduced)))
    jit._loaded.pop(key)
    assert jit.load(text, TOKENS) is None


def test_the_service_compiles_in_a_helper_and_answers_without_blocking() -> None:
    text = SOURCE + "# in a helper\n"
    own = service.KernelService()
    request = own.find(text, TOKENS)
    assert not request.settled
    assert own.find(text, TOKENS) is request
    assert request.wait(60), "the helper did not answer"
    assert request.error is None
    assert request.kernel is not None
    assert own.is_in_memory(text, TOKENS)
    assert request.kernel(3, frozen(np.arange(3, dtype=np.int32)), np.zeros(3)) == 3


@compiles
def test_a_source_that_does_not_compile_is_an_error_of_its_request_only() -> None:
    own = service.KernelService()
    broken = own.find("def pipeline(n):\n    return undefined_name\n", ("i8",))
    assert broken.wait(60)
    assert broken.kernel is None
    assert "undefined_name" in str(broken.error)
    sound = own.find(SOURCE + "# after a broken one\n", TOKENS)
    assert sound.wait(60)
    assert sound.kernel is not None


def test_without_a_private_directory_nothing_is_compiled_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "open"))
    request = service.KernelService().find(SOURCE, TOKENS)
    assert request.settled
    assert request.kernel is None
    assert "private" in str(request.error)


@pytest.mark.parametrize("name", ["add", "sub", "mul"])
def test_checked_arithmetic_flags_exactly_what_does_not_fit(name: str) -> None:
    edges = [0, 1, -1, 2, -2, 3037000500, -3037000500, 2**62, -(2**62), 2**63 - 1, -(2**63)]
    pairs = [(a, b) for a in edges for b in edges]
    left, right = (frozen(np.array(side, dtype=np.int64)) for side in zip(*pairs, strict=True))
    text = f"""
def pipeline(n, a, b, out, flags):
    for i in range(n):
        out[i], flags[i] = checked_{name}(a[i], b[i])
    return np.int64(0)
"""
    kernel = jit.build(text, ("i8", "i8[]", "i8[]", "i8[w]", "b1[w]"))
    out, flags = np.zeros(len(pairs), np.int64), np.zeros(len(pairs), bool)
    kernel(len(pairs), left, right, out, flags)
    exact = {"add": int.__add__, "sub": int.__sub__, "mul": int.__mul__}[name]
    plain = {"add": intrinsics._plain_add, "sub": intrinsics._plain_sub, "mul": intrinsics._plain_mul}[name]
    for i, (a, b) in enumerate(pairs):
        expected = exact(a, b)
        assert bool(flags[i]) == (not -(2**63) <= expected < 2**63), (name, a, b)
        assert (int(out[i]), bool(flags[i])) == plain(a, b)


def test_hand_written_kernels_are_compiled_for_one_signature() -> None:
    hashing.warm()
    slots.warm()
    join.warm()
    probing = (
        join.number_direct,
        join.number_hashed,
        join.find_direct,
        join.find_hashed,
        join.list_rows,
        join.list_pairs,
    )
    for kernel in (hashing.place_all, hashing.absorb, slots.adopt, slots.used, slots.take, *probing):
        assert not hasattr(kernel, "signatures") or jit.signature_count(kernel) == 1
