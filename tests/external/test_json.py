"""JSON files: arrays that are none, numbers beyond 64 bits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

import eventdb
from eventdb.errors import BindError
from eventdb.external import json_lines


@pytest.fixture
def db() -> Iterator[eventdb.Database]:
    with eventdb.open(":memory:") as database:
        yield database


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a":1}{"a":2}]', "element 1 of the array has no comma and no end of the array behind it, but '{\"a\":2}]'"),
        ('[{"a":1} {"a":2}] garbage', "element 1 of the array has no comma"),
        ('[{"a":1}] garbage', "behind the end of the array stands 'garbage'"),
        ('[{"a":1}]]', "behind the end of the array stands ']'"),
        ('[{"a":1}]\n{"a":2}', "behind the end of the array"),
        ('[{"a":1},]', "element 2 of the array cannot be read: Expecting value"),
        ('[,{"a":1}]', "element 1 of the array cannot be read: Expecting value"),
        ('[{"a":1},,{"a":2}]', "element 2 of the array cannot be read: Expecting value"),
        ('[{"a":1}', "element 1 of the array has no comma and no end of the array behind it, but ''"),
        ('[{"a":1},', "element 2 of the array is missing: the array does not end"),
        ('[{"a":1},{"a":', "element 2 of the array"),
        ("[", "element 1 of the array is missing: the array does not end"),
        ('[{"a":1},5]', "element 2 of the array is no object: 5"),
        ('[{"a":1},null]', "element 2 of the array is no object: None"),
        ("[]", "has no columns"),
    ],
)
@pytest.mark.parametrize("block", [1, 3, 1 << 20])
def test_what_is_no_array_of_objects_is_refused(
    db: eventdb.Database, tmp_path: Path, text: str, message: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", block)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(BindError) as raised:
        db.sql(f"SELECT * FROM '{tmp_path}/x.json'")
    assert "x.json'" in str(raised.value)
    assert message in str(raised.value)


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_an_array_is_read_over_the_ends_of_blocks(
    db: eventdb.Database, tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", block)
    rows = [{"a": i * 1_000, "b": f'x"]{i}, [{{'} for i in range(50)]
    text = "\ufeff \n" + json.dumps(rows, indent=1) + " \n"
    (tmp_path / "x.json").write_text(text)
    assert db.sql(f"SELECT * FROM '{tmp_path}/x.json'").fetchall() == [(row["a"], row["b"]) for row in rows]


@pytest.mark.parametrize("is_array", [True, False])
@pytest.mark.parametrize(
    "numbers",
    [[1, 123456789012345678901234567890], [-(2**63), 2**63 - 1], [2**64], [-(2**63) - 1], [1.5, 10**300], [10**5000]],
)
def test_an_integer_beyond_64_bits_is_a_double(
    db: eventdb.Database, tmp_path: Path, numbers: list[int | float], is_array: bool
) -> None:
    path = tmp_path / "x.json"
    lines = ['{"a":' + (str(n) if n != 10**5000 else "1" + "0" * 5000) + "}" for n in numbers]
    path.write_text("[" + ",".join(lines) + "]" if is_array else "\n".join(lines))
    found = db.sql(f"SELECT a FROM '{path}'").fetchall()
    if numbers == [10**5000]:
        assert found == [(float("inf"),)]
        return
    assert found == [
        (n if max(map(abs, numbers)) <= 2**63 and min(numbers) >= -(2**63) else float(n),) for n in numbers
    ]
    with duckdb.connect() as oracle:
        assert oracle.execute(f"SELECT CAST(a AS DOUBLE) FROM '{path}'").fetchall() == [(float(n),) for n in numbers]
    call = f"read_json('{path}', columns => {{'a': 'BIGINT'}})"
    if max(map(abs, numbers)) > 2**63:
        with pytest.raises(eventdb.errors.EventDBError, match=r"x\.json'"):
            db.sql(f"SELECT a FROM {call}").fetchall()


def test_a_number_of_an_array_is_not_cut_to_fit_its_type(db: eventdb.Database, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('[{"a": 1}, {"a": 1.5}]')
    with pytest.raises(eventdb.errors.EventDBError, match=r"x\.json' as json: .*1\.50* was truncated"):
        db.sql(f"SELECT a FROM read_json('{tmp_path}/x.json', columns => {{'a': 'BIGINT'}})").fetchall()
    (tmp_path / "x.json").write_text('[{"a": 9007199254740993, "t": "2024-01-02 03:04:05"}]')
    call = f"read_json('{tmp_path}/x.json', columns => {{'a': 'DOUBLE', 't': 'TIMESTAMP'}})"
    with duckdb.connect() as oracle:
        assert db.sql(f"SELECT a, t FROM {call}").fetchall() == oracle.execute(f"SELECT a, t FROM {call}").fetchall()


def test_a_name_that_is_no_text_is_an_error_with_the_file(db: eventdb.Database, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"\xc4":1}\n')
    with pytest.raises(BindError, match=r"x\.jsonl'"):
        db.sql(f"SELECT * FROM '{tmp_path}/x.jsonl'")
