"""DECIMAL of more than 18 digits in storage: bytes that sort like the number, raw, sealed and opened again."""

from __future__ import annotations

import random
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventdb
from eventdb.decimal_columns import unpack_all
from eventdb.wide_decimals import pack, unpack

LIMIT = 10**38 - 1
EXTREMES = [0, 1, -1, 255, 256, -255, -256, 2**63, -(2**63), 2**64, 10**18, -(10**18), LIMIT, -LIMIT]


def scaled(number: int, scale: int) -> Decimal:
    with localcontext() as context:
        context.prec = 60
        return Decimal(number).scaleb(-scale)


def numbers(seed: int, count: int) -> list[int | None]:
    draw = random.Random(seed)
    found: list[int | None] = [None, *EXTREMES]
    found += [draw.randint(-(10 ** draw.randint(1, 38)) + 1, 10 ** draw.randint(1, 38) - 1) for _ in range(count)]
    draw.shuffle(found)
    return found


@given(st.integers(-(10**76), 10**76), st.integers(-(10**76), 10**76))
def test_bytes_sort_like_the_numbers_and_give_them_back(a: int, b: int) -> None:
    assert unpack(pack(a)) == a
    assert (pack(a) < pack(b)) == (a < b)
    assert (pack(a) == pack(b)) == (a == b)


@given(st.lists(st.one_of(st.integers(-LIMIT, LIMIT), st.integers(-300, 300), st.sampled_from([*EXTREMES, None]))))
def test_many_are_unpacked_as_each_is(found: list[int | None]) -> None:
    spelled = [b"" if n is None else pack(n) for n in found]
    starts = np.cumsum([0, *map(len, spelled)]).astype(np.int32)
    numbers = unpack_all(starts, np.frombuffer(b"".join(spelled), np.uint8))
    assert numbers is not None
    assert numbers.tolist() == [n or 0 for n in found]


@pytest.mark.parametrize("by_row", [True, False])
def test_a_topic_gives_back_every_value_raw_sealed_and_opened_again(tmp_path: Path, by_row: bool) -> None:
    values = [None if n is None else scaled(n, 10) for n in numbers(1, 3_000)]
    with eventdb.open(tmp_path / "db") as db:
        topic = db.create_topic("t", {"i": "BIGINT", "x": "DECIMAL(38,10)"})
        if by_row:
            for i, value in enumerate(values):
                topic.append({"i": i, "x": value})
        else:
            topic.append_batch(pa.table({"i": range(len(values)), "x": pa.array(values, pa.decimal128(38, 10))}))
        for _ in range(2):
            found = db.sql("SELECT x FROM t ORDER BY i")
            assert [row[0] for row in found.fetchall()] == values
            assert db.sql("SELECT x FROM t ORDER BY i").arrow().column(0).type == pa.decimal128(38, 10)
            assert db.sql("SELECT x FROM t ORDER BY i").arrow().column(0).to_pylist() == values
            db.compact(full=True)
    with eventdb.open(tmp_path / "db") as db:
        assert [row[0] for row in db.sql("SELECT x FROM t ORDER BY i").fetchall()] == values
        assert all(part["problems"] == [] for part in [db.check(deep=True)] if "problems" in part)


def test_blocks_are_skipped_and_none_that_holds_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.storage.sealed.seal.SEALED_BLOCK_ROWS", 64)
    values = sorted(n for n in numbers(2, 2_000) if n is not None)
    rows = pa.table({"x": pa.array([scaled(n, 4) for n in values], pa.decimal128(38, 4))})
    oracle = duckdb.connect()
    oracle.register("t", rows)
    with eventdb.open(tmp_path / "db") as db:
        db.create_topic("t", {"x": "DECIMAL(38,4)"}).append_batch(rows)
        db.compact(full=True)
        for bound in (*EXTREMES, values[7], values[-7], 5 * 10**21):
            for sign in ("=", "<", "<=", ">", ">=", "<>"):
                query = f"SELECT count(*) FROM t WHERE x {sign} CAST('{scaled(bound, 4):f}' AS DECIMAL(38,4))"
                assert db.sql(query).fetchall() == oracle.execute(query).fetchall(), query
        shown = db.sql("EXPLAIN ANALYZE SELECT count(*) FROM t WHERE x > 900000000000000000000000000000.5").fetchall()
        assert "skipped" in str(shown)


def test_a_table_finds_its_rows_by_a_wide_key(tmp_path: Path) -> None:
    model: dict[Decimal, int] = {}
    draw = random.Random(3)
    keys = [scaled(n, 2) for n in numbers(3, 60) if n is not None]
    with eventdb.open(tmp_path / "db") as db:
        table = db.create_table("t", {"k": "DECIMAL(38,2)", "v": "BIGINT"}, primary_key="k")
        for step in range(400):
            key = draw.choice(keys)
            if key in model and draw.random() < 0.2:
                db.sql("DELETE FROM t WHERE k = ?", [key])
                del model[key]
            else:
                table.put({"k": key, "v": step})
                model[key] = step
        for _ in range(2):
            assert dict(db.sql("SELECT k, v FROM t").fetchall()) == model
            for key in keys:
                row: Any = table.get(key)
                assert (None if row is None else row["v"]) == model.get(key)
                found = db.sql("SELECT v FROM t WHERE k = ?", [key]).fetchall()
                assert found == ([(model[key],)] if key in model else [])
            db.compact(full=True)


def test_a_value_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db") as db:
        topic = db.create_topic("t", {"x": "DECIMAL(38,2)", "y": "DECIMAL(10,2)"})
        for value, why in [
            (Decimal(10) ** 36, "36 digits before"),
            (Decimal("0.001"), "2 digits after"),
            (Decimal("1." + "0" * 60 + "1"), "2 digits after"),
            (Decimal("1e-99999999"), "2 digits after"),
            (Decimal("NaN"), "finite"),
            (1.5, "Decimal or int"),
        ]:
            for column in "xy":
                with pytest.raises(eventdb.SchemaMismatch, match=why if column == "x" else "column 'y'"):
                    topic.append({column: value})


def test_arrow_numbers_beyond_their_digits_are_refused(tmp_path: Path) -> None:
    """Arrow takes any 128 bits for a decimal."""
    with eventdb.open(tmp_path / "db") as db:
        for type, number in (("DECIMAL(38,2)", 10**38), ("DECIMAL(10,2)", 10**10), ("DECIMAL(10,2)", 2**64)):
            precision = 38 if "38" in type else 10
            data = pa.py_buffer(number.to_bytes(16, "little", signed=True))
            array = pa.Array.from_buffers(pa.decimal128(precision, 2), 1, [None, data])
            topic = db.create_topic(f"t{number}", {"x": type})
            with pytest.raises(eventdb.SchemaMismatch, match="more digits"):
                topic.append_batch(pa.table({"x": array}))


def test_partitions_follow_the_key_however_it_arrives(tmp_path: Path) -> None:
    values = [scaled(n, 3) for n in numbers(4, 200) if n is not None]
    with eventdb.open(tmp_path / "db") as db:
        by_row = db.create_topic("a", {"k": "DECIMAL(38,3)"}, key="k", partitions=5)
        for value in values:
            by_row.append({"k": value})
        db.create_topic("b", {"k": "DECIMAL(38,3)"}, key="k", partitions=5).append_batch(
            pa.table({"k": pa.array(values, pa.decimal128(38, 3))})
        )
        query = "SELECT k, _partition FROM {} ORDER BY k"
        assert db.sql(query.format("a")).fetchall() == db.sql(query.format("b")).fetchall()
