"""Trainings at random: whatever handlers, senders and callers do, nothing is lost or doubled."""

from __future__ import annotations

import pytest

from . import _chaos

GROUP = 10
SEEDS = 300  # half a minute, most of it in which nobody computes


@pytest.mark.parametrize("first", range(0, SEEDS, GROUP))
def test_what_must_hold_does(first: int) -> None:
    """For each of some seeds; one that fails is named, with the command that replays it."""
    for seed in range(first, first + GROUP):
        _chaos.replay(seed)


def test_a_seed_that_fails_says_how_to_replay_it() -> None:
    class Broken(_chaos.Chaos):
        def __call__(self) -> None:
            raise AssertionError("what must hold doesn't")

    with pytest.raises(AssertionError) as caught:
        _chaos.replay(7, Broken)
    assert caught.value.__notes__ == ["seed 7; replay it: python -m tests.chaos 7"]


def test_all_kinds_of_things_happen() -> None:
    """Every event loop, policy and action is drawn, so a seed that is good says something."""
    drawn = [_chaos.Chaos(seed) for seed in range(SEEDS)]
    handlers = [handler for chaos in drawn for handler in chaos.handlers]
    options = [handler.options for handler in handlers]
    assert all(any(chaos.loop == name for chaos in drawn) for name, _ in _chaos.LOOPS)
    assert {o["on_error"] for o in options} == {"log", "stop", "unsubscribe", "raise"}
    overflows = {"block", "drop_oldest", "drop_newest", "latest"}
    assert {o["overflow"] for o in options if "overflow" in o} == overflows
    actions = {"nothing", "block", "fail", "publish", "control", "post", "sleep", "yield", "cancel"}
    assert {action for handler in handlers for action in handler.actions} == actions
    modes = {(handler.is_async, handler.options["wait"]) for handler in handlers}
    assert modes == {(True, True), (True, False), (False, True), (False, False)}
