"""Single instructions that Numba does not offer, for generated pipelines: overflow flags, reassociable sums, bits.

With NUMBA_DISABLE_JIT=1 the same names are plain Python functions, so pipelines can be stepped through.
"""

from __future__ import annotations

import struct
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_PAIR: Any = types.Tuple((types.int64, types.boolean))  # type: ignore[no-untyped-call]

__all__ = ["bits_of", "checked_add", "checked_mul", "checked_sub", "fast_add", "float_of", "np"]


def _overflowing(name: str) -> Any:
    @intrinsic
    def operation(typingctx: Any, left: Any, right: Any) -> Any:
        """(result modulo 2**64, whether it overflowed) of two int64."""
        if left != types.int64 or right != types.int64:
            return None

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            both = getattr(builder, name)(*args)
            parts = [builder.extract_value(both, 0), builder.extract_value(both, 1)]
            return context.make_tuple(builder, signature.return_type, parts)

        return _PAIR(types.int64, types.int64), generate

    return operation


@intrinsic
def _fast_add(typingctx: Any, left: Any, right: Any) -> Any:
    """left + right, which the compiler may reorder with other such sums (vector lanes). NaN and infinity hold."""
    if left != types.float64 or right != types.float64:
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(*args, flags=("reassoc", "nsz"))

    return types.float64(types.float64, types.float64), generate


@intrinsic
def _bits_of(typingctx: Any, value: Any) -> Any:
    """The 64 bits of a float64 as an int64."""
    if value != types.float64:
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), generate


@intrinsic
def _float_of(typingctx: Any, value: Any) -> Any:
    """The float64 of 64 bits."""
    if value != types.int64:
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), generate


def _wrapped(exact: int) -> tuple[Any, bool]:
    value = (exact + (1 << 63)) % (1 << 64) - (1 << 63)
    return np.int64(value), value != exact


def _plain_add(left: int, right: int) -> tuple[Any, bool]:
    return _wrapped(int(left) + int(right))


def _plain_sub(left: int, right: int) -> tuple[Any, bool]:
    return _wrapped(int(left) - int(right))


def _plain_mul(left: int, right: int) -> tuple[Any, bool]:
    return _wrapped(int(left) * int(right))


def _plain_fast_add(left: float, right: float) -> float:
    return left + right


def _plain_bits_of(value: float) -> Any:
    return np.int64(struct.unpack("<q", struct.pack("<d", value))[0])


def _plain_float_of(value: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", value))[0])


checked_add: Any
checked_sub: Any
checked_mul: Any
fast_add: Any
bits_of: Any
float_of: Any
if getattr(numba.config, "DISABLE_JIT", False):
    checked_add, checked_sub, checked_mul = _plain_add, _plain_sub, _plain_mul
    fast_add, bits_of, float_of = _plain_fast_add, _plain_bits_of, _plain_float_of
else:
    checked_add = _overflowing("sadd_with_overflow")
    checked_sub = _overflowing("ssub_with_overflow")
    checked_mul = _overflowing("smul_with_overflow")
    fast_add, bits_of, float_of = _fast_add, _bits_of, _float_of
