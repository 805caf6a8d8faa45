"""When early stopping stops, what it takes for better, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

import fitbus
from fitbus.callbacks import EarlyStopping
from fitbus.errors import InvalidArgumentError
from fitbus.testing import EventRecorder

from ._logs import Adds

if TYPE_CHECKING:
    from .conftest import Script

pytestmark = pytest.mark.anyio

NAN = math.nan
VALLEY = [10, 9, 8, 9, 9, 9, 9, 9, 9]
CLIMB = [1, 2, 3, 4]

LESS = """
    loss mse hinge mean_absolute_error binary_crossentropy accumulated_error layer2_mse
    accuracy_loss false_positives_1 negative_log_likelihood val_rmse cross_entropy cosine_distance
    kl_divergence perplexity val_loss val_mse val_hinge
"""
MORE = """
    acc accuracy sparse_categorical_accuracy top_k_categorical_accuracy acc5 auc roc_auc precision
    recall_1 f1 f1_score iou mean_iou r2_score cosine_similarity BinaryAccuracy val_accuracy
    val_f1_score mean_io_u_1 true_positives sensitivity_at_specificity val_psnr dice kappa
"""
SAYS_NOTHING = """
    score map various learning_rate val_score neg_mean_squared_error negative_loss steps_per_second
    error_rate_of_recall
"""

# What is given, the losses, and then: stopped_epoch (0: it didn't stop), best, best_epoch.
CASES: dict[str, tuple[dict[str, Any], Sequence[float], int, float | None, int]] = {
    "patience 0 is patience 1": ({"patience": 0}, VALLEY, 3, 8, 2),
    "patience 1": ({"patience": 1}, VALLEY, 3, 8, 2),
    "patience 2": ({"patience": 2}, VALLEY, 4, 8, 2),
    "patience 3": ({"patience": 3}, VALLEY, 5, 8, 2),
    "patience that isn't used up": ({"patience": 7}, VALLEY, 0, 8, 2),
    "patience used up in the last epoch": ({"patience": 6}, VALLEY, 8, 8, 2),
    "an improvement lets patience start anew": ({"patience": 2}, [3, 4, 2, 3, 1, 2, 2], 6, 1, 4),
    "the same value is none": ({"patience": 2}, [1, 1, 1, 1], 2, 1, 0),
    "falling again, but not below the best": ({"patience": 3}, [1, 5, 4, 3, 2], 3, 1, 0),
    "exactly min_delta is none": ({"min_delta": 0.5, "patience": 1}, [2, 1.5, 1], 1, 2, 0),
    "more than min_delta is one": ({"min_delta": 0.5}, [2, 1.25, 0.5, 0.25], 3, 0.5, 2),
    "a negative min_delta is its size": ({"min_delta": -0.5}, [2, 1.25, 0.5, 0.25], 3, 0.5, 2),
    "small steps add up to one": ({"min_delta": 0.5, "patience": 3}, [4, 3.75, 3, 3], 0, 3, 2),
    "max, exactly min_delta": ({"mode": "max", "min_delta": 0.5}, [0, 0.5, 1], 1, 0, 0),
    "max, more than min_delta": ({"mode": "max", "min_delta": 0.5}, [0, 0.75, 1.25], 2, 0.75, 1),
    "min of what is negative": ({"mode": "min"}, [-1, -2, -3, -2], 3, -3, 2),
    "a baseline in reach": ({"baseline": 5, "patience": 3}, [9, 8, 4, 9, 9, 9, 9], 5, 4, 2),
    "a baseline out of reach": ({"baseline": 0.5, "patience": 5}, [9, 8, 7, 8, 8, 8], 4, 7, 2),
    "a baseline never stops epoch 0": ({"baseline": 0.5, "patience": 0}, [9, 9, 7], 1, 9, 0),
    "what improves is not stopped": ({"baseline": 0.5, "patience": 2}, [9, 8, 7, 7], 3, 7, 2),
    "a baseline must be beaten": ({"baseline": 0.5, "patience": 2}, [0.5, 0.5, 0.5], 1, 0.5, 0),
    "a baseline by min_delta": ({"baseline": 4, "min_delta": 1, "patience": 2}, [9, 3, 3], 2, 3, 1),
    "a baseline for max": ({"baseline": 2, "mode": "max", "patience": 2}, [1, 3, 2, 2], 3, 3, 1),
    "start_from_epoch": ({"start_from_epoch": 3, "patience": 2}, [1, 2, 3, 4, 4, 4, 4], 5, 4, 3),
    "what came before start_from_epoch": ({"start_from_epoch": 2}, [1, 2, 8, 7, 8], 4, 7, 3),
    "start_from_epoch after the end": ({"start_from_epoch": 9}, CLIMB, 0, None, 0),
    "a first NaN": ({"patience": 2}, [NAN, 3, 2, 1, 2, 2, 2], 5, 1, 3),
    "a NaN counts as a wait": ({"patience": 2}, [3, NAN, 2, NAN, NAN, 1], 4, 2, 2),
    "nothing but NaN": ({"patience": 3}, [NAN] * 5, 2, None, 0),
    "NaN for max": ({"mode": "max"}, [NAN, 1, 2, NAN, 3], 3, 2, 2),
    "a first infinity": ({"patience": 1}, [math.inf, 3, 2, 3], 3, 2, 2),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_it_stops(script: Script, case: str) -> None:
    """In the epoch that Keras' semantics ask for, with the best value of the epochs before."""
    given, losses, stopped_epoch, best, best_epoch = CASES[case]
    stopping = EarlyStopping("loss", **given)
    recorder = EventRecorder()
    history = await script.fit(losses, stopping, recorder)
    assert stopping.stopped_epoch == stopped_epoch
    assert history.epoch == list(range(stopped_epoch + 1 if stopped_epoch else len(losses)))
    assert (stopping.best, stopping.best_epoch) == (best, best_epoch)
    (end,) = recorder.of(fitbus.TrainEnd)
    if stopped_epoch:
        assert (end.reason, end.source) == ("stopped", "EarlyStopping")
    else:
        assert (end.reason, end.source) == ("completed", "")


@pytest.mark.parametrize("monitor", LESS.split())
async def test_less_is_better_of(script: Script, monitor: str) -> None:
    await check_direction(script, monitor, rises=False)


@pytest.mark.parametrize("monitor", MORE.split())
async def test_more_is_better_of(script: Script, monitor: str) -> None:
    await check_direction(script, monitor, rises=True)


async def check_direction(script: Script, monitor: str, *, rises: bool) -> None:
    """What improves all the time isn't stopped, what gets worse is; unless the mode says so."""
    better, worse = (CLIMB, CLIMB[::-1]) if rises else (CLIMB[::-1], CLIMB)
    direction, other = ("max", "min") if rises else ("min", "max")
    for values, mode, stopped_epoch in (
        (better, "auto", 0),
        (worse, "auto", 1),
        (better, direction, 0),
        (better, other, 1),
    ):
        stopping = EarlyStopping(monitor, mode=mode)  # type: ignore[arg-type]  # a table's text
        flat = [0] * len(values)
        if monitor.startswith("val_"):
            await script.fit(flat, stopping, validation=values)
        else:
            await script.fit(values, stopping, validation=flat)
        assert stopping.stopped_epoch == stopped_epoch, (values, mode)
        if not stopped_epoch:
            assert stopping.best == values[-1]


@pytest.mark.parametrize("monitor", SAYS_NOTHING.split())
async def test_a_name_that_says_nothing_is_refused_before_the_first_step(
    script: Script, monitor: str
) -> None:
    """Naming `mode` and what it may be; with a `mode` the name will do."""
    step = int(script.trainer.state.step)
    validation = CLIMB if monitor.startswith("val_") else None
    with pytest.raises(InvalidArgumentError) as raised:
        await script.fit(CLIMB, EarlyStopping(monitor), validation=validation)
    assert str(raised.value) == (
        f"EarlyStopping.mode: found 'auto'; the name {monitor!r} doesn't say whether less or more"
        " of it is better; give mode='min' or mode='max'"
    )
    assert int(script.trainer.state.step) == step
    history = await script.fit(CLIMB, EarlyStopping(monitor, mode="max"), validation=validation)
    assert history.epoch == [0, 1, 2, 3]


async def test_so_is_one_that_a_callback_adds(script: Script) -> None:
    step = int(script.trainer.state.step)
    with pytest.raises(InvalidArgumentError, match=r"EarlyStopping\.mode: found 'auto'"):
        await script.fit(CLIMB, Adds("points", [1, 2, 1, 1]), EarlyStopping("points"))
    assert int(script.trainer.state.step) == step


async def test_by_default_it_watches_the_validation_loss_without_patience(script: Script) -> None:
    stopping = EarlyStopping()
    history = await script.fit(CLIMB[::-1], stopping, validation=[1, 0.5, 0.75, 0.5])
    assert (stopping.monitor, stopping.patience, stopping.min_delta) == ("val_loss", 0, 0)
    assert (stopping.stopped_epoch, stopping.best, history.epoch) == (2, 0.5, [0, 1, 2])


@pytest.mark.parametrize(
    ("monitor", "validation", "one"),
    [("val_loss", None, "loss"), ("unknown", None, "loss"), ("val_unknown", CLIMB, "val_loss")],
)
async def test_what_the_logs_will_never_have_is_refused_before_the_first_step(
    script: Script, monitor: str, validation: list[float] | None, one: str
) -> None:
    """The message lists what they will have."""
    step, recorder = int(script.trainer.state.step), EventRecorder()
    with pytest.raises(InvalidArgumentError) as raised:
        await script.fit(CLIMB, EarlyStopping(monitor), recorder, validation=validation)
    message = str(raised.value)
    assert message.startswith(f"EarlyStopping.monitor: found {monitor!r}; the logs will have [")
    assert f"'{one}'" in message
    assert f"{monitor!r}," not in message
    assert recorder.names == ["TrainBegin", "TrainEnd"]
    assert int(script.trainer.state.step) == step


async def test_it_can_watch_what_a_callback_before_it_adds(script: Script) -> None:
    stopping = EarlyStopping("points", mode="max")
    history = await script.fit(CLIMB, Adds("points", [1, 2, 1, 1]), stopping)
    assert (stopping.stopped_epoch, stopping.best, history.epoch) == (2, 2, [0, 1, 2])


async def test_an_epoch_without_the_value_warns_and_is_not_judged(script: Script) -> None:
    """Not even counted: patience 2 lasts for two epochs that have it."""
    stopping = EarlyStopping("points", patience=2, mode="min")
    adds = Adds("points", [1, None, 2, None, 3, 4])
    with pytest.warns(RuntimeWarning) as caught:
        history = await script.fit([0] * 6, adds, stopping)
    told = [str(warning.message) for warning in caught]
    assert [text.split(";")[0] for text in told] == [
        f"EarlyStopping: there is no 'points' in the logs of epoch {epoch}" for epoch in (1, 3)
    ]
    assert "'loss'" in told[0]
    assert history.epoch == [0, 1, 2, 3, 4]
    assert (stopping.stopped_epoch, stopping.best, stopping.wait) == (4, 1, 2)


async def test_validation_in_every_second_epoch_is_judged_in_those(script: Script) -> None:
    stopping = EarlyStopping(patience=2)
    with pytest.warns(RuntimeWarning, match="no 'val_loss' in the logs of epoch"):
        history = await script.fit(
            [0] * 8, stopping, validation=[0, 1, 0, 2, 0, 3, 0, 4], validation_freq=2
        )
    assert (stopping.stopped_epoch, stopping.best, stopping.best_epoch) == (5, 1, 1)
    assert history.history["val_loss"] == [1, 2, 3]


async def test_initial_epoch_counts_for_start_from_epoch(script: Script) -> None:
    """Both are indices of epochs, not numbers of epochs that were trained."""
    stopping = EarlyStopping("loss", start_from_epoch=3)
    history = await script.fit([1, 2, 3, 4, 5, 6], stopping, initial_epoch=2)
    assert history.epoch == [2, 3, 4]
    assert (stopping.best_epoch, stopping.stopped_epoch) == (3, 4)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("monitor", ""),
        ("monitor", None),
        ("mode", "maximum"),
        ("mode", None),
        ("min_delta", NAN),
        ("min_delta", math.inf),
        ("min_delta", "0.1"),
        ("patience", -1),
        ("patience", 1.5),
        ("patience", True),
        ("start_from_epoch", -1),
        ("start_from_epoch", None),
        ("baseline", NAN),
        ("baseline", "0.1"),
    ],
)
def test_an_argument_out_of_range_is_refused_with_its_name(argument: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        EarlyStopping(**{argument: value})
    assert str(raised.value).startswith(f"EarlyStopping.{argument}: found {value!r}; ")
