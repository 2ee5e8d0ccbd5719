"""Progress: a bar for people, lines for logs."""

from __future__ import annotations

import io

import pytest

from eventdb_shell.progress import Progress, format_left, format_rate


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_share_rate_and_time_left() -> None:
    clock, out = Clock(), Terminal()
    progress = Progress(out, 1_000_000, clock)
    clock.now = 1.0
    progress.advance(250_000)
    assert "[######..................]  25%  250,000 rows  250k rows/s  0:03 left" in out.getvalue()
    progress.finish()
    assert out.getvalue().endswith("\r\x1b[K")


def test_a_log_gets_whole_lines_and_not_many() -> None:
    clock, out = Clock(), io.StringIO()
    progress = Progress(out, None, clock)
    for second in range(12):
        clock.now = float(second)
        progress.advance(1_000 * second)
    progress.finish()
    assert out.getvalue() == "5,000 rows  1.0k rows/s\n10,000 rows  1.0k rows/s\n"


def test_no_share_is_invented_when_the_estimate_was_too_low() -> None:
    clock = Clock()
    progress = Progress(io.StringIO(), 10, clock)
    clock.now = 1.0
    progress.advance(20)
    assert "%" not in progress.line()


RATES = [(0, "0 rows/s"), (87, "87 rows/s"), (340_000, "340k rows/s"), (1_240_000, "1.2M rows/s")]


@pytest.mark.parametrize(("rate", "text"), RATES)
def test_rates_read_well(rate: float, text: str) -> None:
    assert format_rate(rate) == text


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (125, "2:05"), (3600, "1:00:00")])
def test_time_left_reads_well(seconds: float, text: str) -> None:
    assert format_left(seconds) == text
