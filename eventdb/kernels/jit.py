"""Numba's door: `njit` for the hand-written kernels, `build` and `load` for generated ones.

All kernels release the GIL, use IEEE arithmetic without reassociation (a fused kernel must filter the same rows as the
interpreted engine; only the sums opt in, through `intrinsics.fast_add`), and divide without Python's checks.
Machine code is kept on disk by `kernels.cache`; Numba's own cache, and its environment variables, are not used.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
import threading
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numba
from numba.core import types
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock

from eventdb.kernels import cache

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


_machine_code = attrgetter("library")


class DiskCache(_Cache):
    """Numba's cache interface over `kernels.cache`. `parts` name what is compiled; loading checks the processor."""

    def __init__(self, *parts: str, with_signature: bool) -> None:
        self._parts = parts
        self._with_signature = with_signature

    @property
    def cache_path(self) -> str | None:
        return cache.directory()

    def _key(self, signature: Any) -> str:
        return cache.kernel_key(
            *self._parts, *((str(getattr(signature, "args", signature)),) if self._with_signature else ())
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        data = cache.read(self._key(sig))
        if data is None:
            return None
        machine, reduced = pickle.loads(data)  # the file's owner, mode and hash were checked
        if machine != target_context.codegen().magic_tuple():
            return None
        rebuild: Any = CompileResult._rebuild
        return rebuild(target_context, *reduced)

    def save_overload(self, sig: Any, cres: Any) -> None:
        if cres.lifted or _machine_code(cres).has_dynamic_globals:
            return
        from numba.core import serialize

        dump: Any = serialize.dumps
        cache.write(self._key(sig), dump((cres.target_context.codegen().magic_tuple(), cres._reduce())))

    def enable(self) -> None:
        """The cache is always on."""

    def disable(self) -> None:
        """The cache is always on."""

    def flush(self) -> None:
        """Nothing is held back."""


def _dispatcher(function: Callable[..., Any], disk: DiskCache) -> Any:
    compiled = numba.njit(**_OPTIONS)(function)
    if hasattr(compiled, "_cache"):  # with NUMBA_DISABLE_JIT the function itself came back
        compiled._cache = disk
    return compiled


def njit(function: Callable[..., Any]) -> Any:
    """Compiles a hand-written kernel at its first call; kept on disk until its file changes."""
    try:
        with open(inspect.getfile(function), "rb") as file:
            source = hashlib.sha256(file.read()).hexdigest()
    except OSError:
        source = inspect.getsource(function)
    name = f"{function.__module__}.{function.__qualname__}"
    return _dispatcher(function, DiskCache(name, source, with_signature=True))


_SCALARS = {"i8": types.int64, "f8": types.float64, "b1": types.boolean}
_ITEMS = {
    "b1": types.boolean, "i1": types.int8, "i2": types.int16, "i4": types.int32, "i8": types.int64,
    "u1": types.uint8, "u4": types.uint32, "u8": types.uint64, "f4": types.float32, "f8": types.float64,
}  # fmt: skip


def _argument_type(token: str) -> Any:
    """'i8' a number, 'i8[]' a read-only array, 'i8[w]' a writable one, 'i8[t]' a tile column (tiles.py)."""
    if token.endswith("[t]"):
        item = token[:-3]
        parts = [f"{item}[]", f"u{item[1]}[]", "i8[]", f"{item}[w]"]
        return types.Tuple([_argument_type(part) for part in parts])  # type: ignore[no-untyped-call]
    if token.endswith("[]"):
        return types.Array(_ITEMS[token[:-2]], 1, "C", readonly=True)
    if token.endswith("[w]"):
        return types.Array(_ITEMS[token[:-3]], 1, "C", readonly=False)
    return _SCALARS[token]


def _signature(tokens: tuple[str, ...]) -> Any:
    return types.int64(*[_argument_type(token) for token in tokens])


_lock = threading.Lock()
_loaded: dict[str, Callable[..., int]] = {}
_MAX_LOADED = 1_024


def _keep(key: str, compiled: Any) -> Any:
    """Remembers a kernel, forgetting the oldest ones when there are too many."""
    while len(_loaded) >= _MAX_LOADED:
        del _loaded[next(iter(_loaded))]
    _loaded[key] = compiled
    return compiled


def _define(source: str, tokens: tuple[str, ...]) -> Any:
    from eventdb.kernels import intrinsics, tiles

    # An importable module name: a stored kernel looks up its module when it is loaded in another process.
    scope: dict[str, Any] = {"__name__": intrinsics.__name__, "np": intrinsics.np}
    scope.update({name: getattr(intrinsics, name) for name in intrinsics.__all__})
    scope.update({name: getattr(tiles, name) for name in tiles.__all__})
    exec(compile(source, "<eventdb pipeline>", "exec"), scope)
    return _dispatcher(scope["pipeline"], DiskCache(source, *tokens, with_signature=False))


def load(source: str, tokens: tuple[str, ...]) -> Callable[..., int] | None:
    """The kernel of a generated source, from memory or disk (milliseconds); None when it must be compiled first."""
    key = cache.kernel_key(source, *tokens)
    with _lock:
        found = _loaded.get(key)
        if found is not None:
            return found
        compiled = _define(source, tokens)
        if not hasattr(compiled, "_cache"):
            kept: Callable[..., int] = _keep(key, compiled)
            return kept
        with global_compiler_lock:  # another thread may compile or load a hand-written kernel
            result = compiled._cache.load_overload(_signature(tokens), compiled.targetctx)
            if result is None:
                return None
            compiled.targetctx.insert_user_function(result.entry_point, result.fndesc, [_machine_code(result)])
            compiled.add_overload(result)
        compiled.disable_compile()  # another argument type is a bug here, not a reason to compile again
        loaded: Callable[..., int] = _keep(key, compiled)
        return loaded


def build(source: str, tokens: tuple[str, ...]) -> Callable[..., int]:
    """The kernel of a generated source, compiled here if needed (0.2 to 0.5 s) and stored on disk.

    `source` defines `pipeline`, whose arguments have the types of `tokens` and which returns an int64.
    """
    found = load(source, tokens)
    if found is not None:
        return found
    key = cache.kernel_key(source, *tokens)
    with _lock:
        if key not in _loaded:
            compiled = _define(source, tokens)
            compiled.compile(_signature(tokens))
            compiled.disable_compile()
            _keep(key, compiled)
        return _loaded[key]


def warm_families(source: str) -> None:
    """Compiles or loads the hand-written kernels that a generated source is run together with."""
    from eventdb.kernels.family import JOIN_MARK

    if source.startswith(JOIN_MARK):
        from eventdb.kernels import join

        join.warm()
    elif "gk[" in source:
        from eventdb.kernels import hashing

        hashing.warm()
    elif "base_i" in source:
        from eventdb.kernels import slots

        slots.warm()


def is_loaded(source: str, tokens: tuple[str, ...]) -> bool:
    return cache.kernel_key(source, *tokens) in _loaded


def signature_count(compiled: Any) -> int:
    """How many argument types a kernel was compiled for: 1, or an array of another layout slipped in."""
    return len(compiled.signatures)
