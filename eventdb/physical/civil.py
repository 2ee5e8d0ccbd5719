"""Calendar arithmetic on arrays: days since 1970-01-01 <-> year, month, day of the proleptic Gregorian calendar.

After Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March, so the leap day is the last.
Exact for every day of years -32000 to 32000. All arrays are int64.
"""

from __future__ import annotations

import numpy as np

from eventdb.batch import Array

DAY_US = 86_400_000_000
MONTH_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], dtype=np.int64)


def civil_from_days(days: Array) -> tuple[Array, Array, Array]:
    """Year, month (1-12), day (1-31)."""
    shifted = days.astype(np.int64, copy=False) + 719_468
    era = shifted // 146_097
    day_of_era = shifted - era * 146_097
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    march_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * march_month + 2) // 5 + 1
    month = np.where(march_month < 10, march_month + 3, march_month - 9)
    year = year_of_era + era * 400 + (month <= 2)
    return year, month, day


def days_from_civil(year: Array, month: Array, day: Array) -> Array:
    """Days since 1970-01-01. Month must be 1 to 12; the day may be any number (it is added)."""
    march_year = year - (month <= 2)
    era = march_year // 400
    year_of_era = march_year - era * 400
    day_of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    result: Array = era * 146_097 + day_of_era - 719_468
    return result


def is_leap(year: Array) -> Array:
    result: Array = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    return result


def month_length(year: Array, month: Array) -> Array:
    """Days of the month (1-12)."""
    result: Array = MONTH_DAYS[month] + ((month == 2) & is_leap(year))
    return result


def iso_year_week(days: Array) -> tuple[Array, Array]:
    """ISO 8601 week-numbering year and week (1-53): the week's Thursday decides."""
    thursday = days - (days + 3) % 7 + 3
    year = civil_from_days(thursday)[0]
    first = days_from_civil(year, np.ones_like(year), np.ones_like(year))
    return year, (thursday - first) // 7 + 1
