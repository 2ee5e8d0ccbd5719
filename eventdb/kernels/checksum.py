"""zlib's CRC-32 by carry-less multiplication, several times as fast, on processors that have it.

Source: Gopal et al., Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction (Intel, 2009). Sixty-four
bytes at a time, or 256 where vectors of 512 bits are multiplied, are folded into the next as many; what is left after
the last fold has the CRC of all that was folded in, and zlib computes it.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from eventdb.kernels.jit import njit

__all__ = ["checksum", "is_supported", "warm", "ways"]

LEAST_BYTES = 1 << 14  # zlib is done with fewer bytes before the call is
_ALL = (1 << 32) - 1
_POLYNOMIAL = 0x104C11DB7  # x**32 first


def _power(exponent: int) -> Any:
    """x**exponent modulo the polynomial, bits reversed as in CRC-32, one place up: products come out one short."""
    rest = 1
    for _ in range(exponent):
        rest <<= 1
        if rest >> 32:
            rest ^= _POLYNOMIAL
    return np.uint64(int(f"{rest:032b}"[::-1], 2) << 1)


def _folding(lanes: int) -> Any:
    """Folds by vectors of so many 64-bit words, 2 or 8."""

    @intrinsic
    def fold_at(typingctx: Any, words: Any, count: Any, state: Any, low: Any, high: Any) -> Any:
        """`count` times four vectors at address `words` are folded into the four at address `state`."""
        if any(kind != types.uint64 for kind in (words, count, state, low, high)):
            return None

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pairs, place = ir.VectorType(ir.IntType(64), lanes), ir.IntType(32)
            insert: Any = cgutils.get_or_insert_function  # untyped
            room: Any = cgutils.alloca_once
            name = "llvm.x86.pclmulqdq" if lanes == 2 else f"llvm.x86.pclmulqdq.{64 * lanes}"
            multiply = insert(builder.module, ir.FunctionType(pairs, [pairs, pairs, ir.IntType(8)]), name)
            source, target = (builder.inttoptr(args[i], pairs.as_pointer()) for i in (0, 2))
            factors = ir.Constant(pairs, ir.Undefined)
            for i in range(lanes):
                factors = builder.insert_element(factors, args[3 + i % 2], place(i))

            def part(base: Any, number: Any) -> Any:
                return builder.gep(base, [number])

            sums = [room(builder, pairs) for _ in range(4)]
            for i, total in enumerate(sums):
                builder.store(builder.load(part(target, place(i)), align=1), total)
            with cgutils.for_range(builder, args[1]) as loop:
                first = builder.mul(loop.index, loop.index.type(4))
                for i, total in enumerate(sums):
                    held = builder.load(total)
                    low_half = builder.call(multiply, [held, factors, ir.IntType(8)(0x00)])
                    high_half = builder.call(multiply, [held, factors, ir.IntType(8)(0x11)])
                    more = builder.load(part(source, builder.add(first, first.type(i))), align=1)
                    builder.store(builder.xor(builder.xor(low_half, high_half), more), total)
            for i, total in enumerate(sums):
                builder.store(builder.load(total), part(target, place(i)), align=1)
            return context.get_dummy_value()

        return types.void(*[types.uint64] * 5), generate

    return fold_at


_by_two: Any = _folding(2)
_by_eight: Any = _folding(8)


@njit
def fold(data, state, low, high):  # type: ignore[no-untyped-def]
    """state, 64 bytes, has the CRC of itself and of `data`, a multiple of 64 bytes, after it."""
    _by_two(np.uint64(data.ctypes.data), np.uint64(len(data) // 64), np.uint64(state.ctypes.data), low, high)


@njit
def fold_wide(data, state, low, high):  # type: ignore[no-untyped-def]
    """As `fold`, with 256 bytes."""
    _by_eight(np.uint64(data.ctypes.data), np.uint64(len(data) // 256), np.uint64(state.ctypes.data), low, high)


class Folding:
    """A way to fold: the kernel, and how many bytes it folds into the next as many."""

    def __init__(self, fold: Any, size_bytes: int) -> None:
        self.fold = fold
        self.size_bytes = size_bytes
        self.low, self.high = _power(8 * size_bytes + 32), _power(8 * size_bytes - 32)


NARROW, WIDE = Folding(fold, 64), Folding(fold_wide, 256)


def ways() -> list[Folding]:
    """The quickest one of this processor first; none if it does not multiply without carries, or nothing is compiled at
    all."""
    import numba

    features = llvmlite.binding.get_host_cpu_features()
    if getattr(numba.config, "DISABLE_JIT", False) or not features.get("pclmul"):
        return []
    return [WIDE, NARROW] if features.get("vpclmulqdq") and features.get("avx512f") else [NARROW]


_WAYS = ways()


def is_supported() -> bool:
    """Whether there is a kernel for this processor."""
    return bool(_WAYS)


def checksum(data: memoryview, way: Folding | None = None) -> int:
    """zlib.crc32(data). Needs `is_supported`."""
    way = _WAYS[0] if way is None else way
    size = way.size_bytes
    whole = len(data) // size * size
    if whole < LEAST_BYTES:
        return crc32(data)
    state = np.frombuffer(bytearray(data[:size]), np.uint8)
    state[:4] ^= np.uint8(0xFF)
    way.fold(np.frombuffer(data[size:whole], np.uint8), state, way.low, way.high)
    return crc32(data[whole:], crc32(state.data, _ALL))


def warm() -> None:
    """Compiles or loads the kernel of this file, so that no query does."""
    checksum(memoryview(bytes(LEAST_BYTES)))
