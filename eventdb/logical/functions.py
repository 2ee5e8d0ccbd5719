"""The one registry of scalar and aggregate functions: names, argument types, result types, NULLs, errors.

The binder resolves every SQL operator and function to a name of SCALARS or AGGREGATES and casts the arguments to the
types `resolve` returns, so an implementation sees exactly the listed types and never mixes them. Rules that hold for
all:

* **Types.** `common` arguments have one equal type. Integer arithmetic has both arguments and the result in the wider
  integer type; float arithmetic in DOUBLE (FLOAT only if both are FLOAT); DECIMAL add/subtract/modulo have both
  arguments and the result at one scale, DECIMAL multiply keeps the arguments' scales and the result's scale is their
  sum. Sums and products of DECIMALs of at most 18 digits have no more, where their scale allows; others have up to 38,
  and keep the arguments' own digits and scales. A product of a scale beyond 38 does not exist. DECIMAL with a float
  and every DECIMAL division become DOUBLE. Comparisons are exact whatever the digits.
* **NULL.** `strict`: NULL in any argument gives NULL, and the function is not evaluated there (no error from such
  rows). The others say what they do.
* **Errors.** `raises`: some values make an EvaluationError (integer and DECIMAL overflow, a zero divisor of any
  numeric type, sqrt of a negative). Floats follow IEEE otherwise: they overflow to infinity. Rows that a filter,
  CASE, COALESCE, AND or OR keeps away must not raise.
* **Literals.** `literals` are the argument positions that are always a Literal in a plan (units, formats, widths).
* **Intervals** in a plan are exact microseconds: the binder turns months into `add_months` and `month_bucket`.
* **Strings** are counted in code points and compared by code point. NaN compares as in IEEE, but sorts last, equals
  itself in GROUP BY and DISTINCT, and is the greatest value for min and max.

Casts (`Cast`, the failing ones raise, TRY_CAST gives NULL): number to number (out of range fails; float to integer
rounds half to even, DECIMAL to integer or to a smaller scale rounds half away from zero; float to DECIMAL rounds half
away; NaN and infinity fail); BOOLEAN to numbers 0/1 and numbers to BOOLEAN (not zero); DATE to TIMESTAMP (midnight)
and back (floor); every type to VARCHAR: 'true'/'false', shortest round-trip floats as Python prints them, DECIMAL
with all its scale, `YYYY-MM-DD`, `YYYY-MM-DD HH:MM:SS[.ffffff without trailing zeros]`, BLOB as UTF-8 (invalid
fails), INTERVAL as `[-]H:MM:SS[.f]` hours unbounded; VARCHAR (spaces around it ignored) to numbers ('1e3' only to
floats and DECIMAL; 'inf', 'nan' to floats), to BOOLEAN (true/false/t/f/yes/no/on/off/1/0 in any case), DATE
(YYYY-MM-DD), TIMESTAMP (date, then optional 'T' or space, HH:MM[:SS[.f]], then optional Z or +HH[:MM], result in
UTC), BLOB (UTF-8). The NULL type casts to everything.
"""

from __future__ import annotations

from eventdb.logical.aggregates import AGGREGATES, COLLECTED, is_collected
from eventdb.logical.facts import EMPTY_IS_ZERO, aggregation_type, ends_in_escape, is_volatile, may_be_null, may_raise
from eventdb.logical.rankings import RANKINGS
from eventdb.logical.scalars import DATE_PARTS, SCALARS, TRUNC_UNITS
from eventdb.logical.signatures import Function, Resolution
from eventdb.logical.types import as_decimal, cast_may_fail, castable, common_type, comparable_type

__all__ = [
    "AGGREGATES",
    "COLLECTED",
    "DATE_PARTS",
    "EMPTY_IS_ZERO",
    "RANKINGS",
    "SCALARS",
    "TRUNC_UNITS",
    "Function",
    "Resolution",
    "aggregation_type",
    "as_decimal",
    "cast_may_fail",
    "castable",
    "common_type",
    "comparable_type",
    "ends_in_escape",
    "is_collected",
    "is_volatile",
    "may_be_null",
    "may_raise",
]
