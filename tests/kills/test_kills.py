"""Processes killed at chance moments, in saves too: in the end, all is as if nobody had."""

from __future__ import annotations

from typing import Any

import pytest

from ._kills import Settings, kill

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [1, 2])
def test_scenario_31_what_was_killed_and_went_on_ends_as_what_was_not(seed: int) -> None:
    """State, history, CSV, JSON lines, journal and curves; `python -m tests.kills` kills more."""
    expected: dict[Settings, Any] = {}
    kill(seed, 3, expected)
    assert expected
