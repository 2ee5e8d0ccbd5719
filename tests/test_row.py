"""Rows: what a dict may hold, what is refused, and that encode and decode are inverse."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as hs

from eventdb.errors import SchemaMismatch
from eventdb.row import MAX_FLOAT32, RowCodec
from eventdb.schema import INTEGER_RANGES, Schema

ALL = Schema.from_mapping(
    {
        "flag": "BOOLEAN", "tiny": "TINYINT", "small": "SMALLINT", "int": "INTEGER", "big": "BIGINT", "single": "FLOAT",
        "double": "DOUBLE", "money": "DECIMAL(12,2)", "name": "VARCHAR", "raw": "BLOB", "day": "DATE",
        "at": "TIMESTAMP",
    }
)  # fmt: skip


def integers(name: str) -> hs.SearchStrategy[int]:
    low, high = INTEGER_RANGES[name]
    return hs.integers(low, high)


VALUES = {
    "flag": hs.booleans(),
    "tiny": integers("TINYINT"),
    "small": integers("SMALLINT"),
    "int": integers("INTEGER"),
    "big": integers("BIGINT"),
    "single": hs.floats(width=32, allow_nan=False),
    "double": hs.floats(allow_nan=False),
    "money": hs.decimals(min_value=-(10**9), max_value=10**9, places=2),
    "name": hs.text(hs.characters(exclude_categories=["Cs"])),
    "raw": hs.binary(),
    "day": hs.dates(),
    "at": hs.datetimes(),
}


@given(hs.fixed_dictionaries({}, optional={k: hs.none() | v for k, v in VALUES.items()}))
def test_what_is_encoded_decodes_to_the_same_values(event: dict[str, object]) -> None:
    codec = RowCodec(ALL)
    decoded = dict(zip(ALL.names, codec.decode(codec.encode(event)), strict=True))
    assert decoded == {name: event.get(name) for name in ALL.names}


@given(hs.fixed_dictionaries(VALUES))
def test_the_generated_function_and_the_slow_path_agree(event: dict[str, object]) -> None:
    codec = RowCodec(ALL)
    assert codec.encode(event) == codec._encode_slow(event)
    types = [type(v) for v in codec.encode(event)]
    assert types == [bool, int, int, int, int, float, float, int, str, bytes, int, int]


@hs.composite
def many_events(draw: hs.DrawFn) -> list[dict[str, object]]:
    """Events that mostly have all columns, in this or another order, and now and then a value that does not fit."""
    odd = hs.sampled_from(
        [True, 2**63, "\ud800", "x" * 5000, b"y" * 5000, np.int32(3), math.inf, 1e39, dt.date.max, [], "é"]
    )
    cells = {k: hs.none() | v for k, v in VALUES.items()}
    whole = hs.fixed_dictionaries(cells) | hs.permutations(sorted(VALUES)).flatmap(
        lambda names: hs.fixed_dictionaries({k: cells[k] for k in names})
    )
    events = draw(hs.lists(whole, min_size=1, max_size=6))
    for event in events:
        if draw(hs.integers(0, 9)) == 9:
            event[draw(hs.sampled_from(sorted(VALUES)))] = draw(odd)
        if draw(hs.integers(0, 19)) == 19:
            del event[draw(hs.sampled_from(sorted(event)))]
    return events


@given(many_events())
def test_many_rows_become_what_each_of_them_becomes(events: list[dict[str, object]]) -> None:
    try:
        expected = list(map(RowCodec(ALL).encode, events))
    except SchemaMismatch:
        with pytest.raises(SchemaMismatch):
            RowCodec(ALL).encode_all(events)
        return
    found = list(zip(*RowCodec(ALL).encode_all(events), strict=True))
    assert repr(found) == repr(expected)  # NaN, and the kinds of numbers


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("flag", 1, "BOOLEAN"),
        ("tiny", 128, "-128 to 127"),
        ("int", True, "INTEGER"),
        ("big", 1 << 63, "the range is"),
        ("big", 1.0, "BIGINT"),
        ("single", 1e39, "use DOUBLE"),
        ("double", "1.5", "DOUBLE"),
        ("double", True, "DOUBLE"),
        ("double", 10**400, "too large"),
        ("money", Decimal("0.001"), "digits after the point"),
        ("money", Decimal("1e11"), "digits before the point"),
        ("money", Decimal("NaN"), "finite"),
        ("money", 1.5, "Decimal or int"),
        ("name", b"bytes", "VARCHAR"),
        ("name", "\ud800", "surrogate"),
        ("raw", "text", "BLOB"),
        ("day", dt.datetime(2024, 1, 1), "DATE"),
        ("at", dt.date(2024, 1, 1), "TIMESTAMP"),
        ("at", "2024-01-01", "datetime"),
        ("at", 1 << 62, "years 1 to 9999"),
        ("nme", 1, "did you mean name"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_column_and_reason(column: str, value: object, words: str) -> None:
    with pytest.raises(SchemaMismatch, match=words) as caught:
        RowCodec(ALL).encode({column: value})
    assert caught.value.column == column


def test_null_in_a_required_column_is_refused_whether_given_or_missing() -> None:
    codec = RowCodec(Schema.from_mapping({"a": "BIGINT NOT NULL", "b": "BIGINT"}))
    for event in ({"a": None, "b": 1}, {"b": 1}):
        with pytest.raises(SchemaMismatch, match="NOT NULL"):
            codec.encode(event)


def test_names_match_without_case_and_twice_is_refused() -> None:
    codec = RowCodec(Schema.from_mapping({"Temp": "DOUBLE"}))
    assert codec.encode({"TEMP": 1}) == (1.0,)
    with pytest.raises(SchemaMismatch, match="given twice"):
        codec.encode({"Temp": 1, "temp": 2})


def test_numpy_scalars_are_taken_as_what_they_hold() -> None:
    codec = RowCodec(ALL)
    event = {"flag": np.bool_(True), "int": np.int64(7), "single": np.float32(0.5), "double": np.float64("nan")}
    encoded = dict(zip(ALL.names, codec.encode({**event, "at": np.datetime64("2024-01-01", "us")}), strict=True))
    assert encoded["flag"] is True
    assert encoded["int"] == 7
    assert math.isnan(encoded["double"])
    assert encoded["at"] == 1_704_067_200_000_000


def test_aware_datetimes_become_utc() -> None:
    codec = RowCodec(Schema.from_mapping({"at": "TIMESTAMP"}))
    berlin = dt.timezone(dt.timedelta(hours=2))
    encoded = codec.encode({"at": dt.datetime(2024, 7, 1, 14, tzinfo=berlin)})
    assert codec.decode(encoded) == (dt.datetime(2024, 7, 1, 12),)


def test_floats_at_the_edge_of_single_precision() -> None:
    codec = RowCodec(Schema.from_mapping({"x": "FLOAT"}))
    assert codec.encode({"x": float("inf")}) == (float("inf"),)
    with pytest.raises(SchemaMismatch):
        codec.encode({"x": MAX_FLOAT32})


def test_a_row_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(SchemaMismatch, match="a row is a dict"):
        RowCodec(ALL).encode([1, 2])  # type: ignore[arg-type]
