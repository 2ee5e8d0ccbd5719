"""CRC-32 by carry-less multiplication, against zlib's."""

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.kernels import checksum

pytestmark = pytest.mark.skipif(not checksum.is_supported(), reason="the processor has no such instruction")


@given(st.binary(min_size=1, max_size=300), st.integers(0, 3 * checksum.LEAST_BYTES), st.integers(0, 64))
def test_the_checksum_of_any_bytes_at_any_address_is_that_of_zlib(seed: bytes, size: int, start: int) -> None:
    data = memoryview((seed * ((size + start) // len(seed) + 1))[: size + start])[start:]
    assert checksum.checksum(data) == crc32(data)
    for way in checksum.ways():
        assert checksum.checksum(data, way) == crc32(data)


@given(st.integers(0, 8 * checksum.LEAST_BYTES + 77))
def test_one_flipped_bit_changes_the_checksum(bit: int) -> None:
    data = bytearray(range(256)) * (checksum.LEAST_BYTES // 256 + 1)
    whole = checksum.checksum(memoryview(data))
    data[bit // 8] ^= 1 << bit % 8
    assert checksum.checksum(memoryview(data)) == crc32(data) != whole
