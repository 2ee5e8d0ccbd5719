"""Hypothesis draws the same examples on every run unless told otherwise: `pytest --hypothesis-profile=search`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile("suite", max_examples=40, deadline=None, derandomize=True, suppress_health_check=_QUIET)
settings.register_profile("search", max_examples=1_000, deadline=None, suppress_health_check=_QUIET)
settings.load_profile("suite")
