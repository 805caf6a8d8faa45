"""No bytes make a decoder raise anything but what it says, and what decodes encodes again.

A hundred thousand different inputs in all; `python -m tests.fuzz` looks further, led by coverage.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ._mutants import OPERATION_BYTES, mutants
from ._targets import TARGETS

OPERATIONS = 30
EXAMPLES = {  # each with as many inputs as operations
    "json": 1500,
    "msgpack": 1500,
    "journal": 300,
    "frame": 300,
    "backup": 200,
    "packed": 1000,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_raise_anything_else(name: str) -> None:
    target = TARGETS[name]

    @settings(
        max_examples=EXAMPLES[name],
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(
        first=st.integers(0, 2**16),
        program=st.binary(
            min_size=OPERATIONS * OPERATION_BYTES, max_size=OPERATIONS * OPERATION_BYTES
        ),
    )
    def check(first: int, program: bytes) -> None:
        for data in mutants(target.seeds, first, program, is_text=target.is_text):
            target.check(data)

    check()


def test_a_hundred_thousand_inputs_are_tried() -> None:
    assert EXAMPLES.keys() == TARGETS.keys()
    assert sum(EXAMPLES.values()) * OPERATIONS >= 100_000


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_themselves_are_good(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].check(seed)
