"""zlib's CRC-32 by carry-less multiplication, several times as fast, on processors that have it.

Source: Gopal et al., Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction (Intel, 2009). Sixty-four
bytes at a time are folded into the next sixty-four; what is left after the last fold has the CRC of all that was folded
in, and zlib computes it.
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

__all__ = ["checksum", "is_supported", "warm"]

LEAST_BYTES = 1 << 14  # zlib is done with fewer bytes before the call is
_FOLD_BYTES = 64
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


_LOW, _HIGH = _power(8 * _FOLD_BYTES + 32), _power(8 * _FOLD_BYTES - 32)


@intrinsic
def _fold_at(typingctx: Any, words: Any, count: Any, state: Any, low: Any, high: Any) -> Any:
    """`count` times 64 bytes at address `words` are folded into the 64 bytes at address `state`."""
    if any(kind != types.uint64 for kind in (words, count, state, low, high)):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pair, place = ir.VectorType(ir.IntType(64), 2), ir.IntType(32)
        insert: Any = cgutils.get_or_insert_function  # untyped
        room: Any = cgutils.alloca_once
        multiply = insert(builder.module, ir.FunctionType(pair, [pair, pair, ir.IntType(8)]), "llvm.x86.pclmulqdq")
        source, target = (builder.inttoptr(args[i], pair.as_pointer()) for i in (0, 2))
        factors = builder.insert_element(ir.Constant(pair, ir.Undefined), args[3], place(0))
        factors = builder.insert_element(factors, args[4], place(1))

        def part(base: Any, number: Any) -> Any:
            return builder.gep(base, [number])

        sums = [room(builder, pair) for _ in range(4)]
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


_fold: Any = _fold_at


@njit
def fold(data, state, low, high):  # type: ignore[no-untyped-def]
    """state, 64 bytes, has the CRC of itself and of `data`, a multiple of 64 bytes, after it."""
    _fold(np.uint64(data.ctypes.data), np.uint64(len(data) // 64), np.uint64(state.ctypes.data), low, high)


def is_supported() -> bool:
    """Whether this processor multiplies without carries, and instructions are compiled at all."""
    import numba

    if getattr(numba.config, "DISABLE_JIT", False):
        return False
    return bool(llvmlite.binding.get_host_cpu_features().get("pclmul"))


def checksum(data: memoryview) -> int:
    """zlib.crc32(data). Needs `is_supported`."""
    whole = len(data) // _FOLD_BYTES * _FOLD_BYTES
    if whole < LEAST_BYTES:
        return crc32(data)
    state = np.frombuffer(bytearray(data[:_FOLD_BYTES]), np.uint8)
    state[:4] ^= np.uint8(0xFF)
    fold(np.frombuffer(data[_FOLD_BYTES:whole], np.uint8), state, _LOW, _HIGH)
    return crc32(data[whole:], crc32(state.data, _ALL))


def warm() -> None:
    """Compiles or loads the kernel of this file, so that no query does."""
    checksum(memoryview(bytes(LEAST_BYTES)))
