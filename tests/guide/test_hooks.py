"""The guide's first callback: every hook, in order, with the names in its logs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus.callbacks import Callback, Logs
from fitbus.examples.keras_guide import PrintEveryHook

pytestmark = pytest.mark.anyio
Array = np.ndarray[Any, Any]

METRICS = "['loss', 'mean_absolute_error']"
ALL = "['loss', 'mean_absolute_error', 'val_loss', 'val_mean_absolute_error']"
FIT = [
    "train begin []",
    "epoch 0 begin []",
    *(
        line
        for batch in range(4)
        for line in (f"train batch {batch} begin []", f"train batch {batch} end {METRICS}")
    ),
    "test begin []",
    *(
        line
        for batch in range(4)
        for line in (f"test batch {batch} begin []", f"test batch {batch} end {METRICS}")
    ),
    f"test end {METRICS}",
    f"epoch 0 end {ALL}",
    f"train end {ALL}",
]
EVALUATE = [
    "test begin []",
    *(
        line
        for batch in range(8)
        for line in (f"test batch {batch} begin []", f"test batch {batch} end {METRICS}")
    ),
    f"test end {METRICS}",
]
PREDICT = [
    "predict begin []",
    *(
        line
        for batch in range(8)
        for line in (f"predict batch {batch} begin []", f"predict batch {batch} end ['outputs']")
    ),
    "predict end []",
]


async def test_fit_calls_every_hook_in_the_order_of_keras_with_its_log_keys(
    warm_trainer: fitbus.Trainer, examples: tuple[Array, Array]
) -> None:
    lines: list[str] = []
    await warm_trainer.fit(
        *examples,
        batch_size=128,
        epochs=1,
        validation_split=0.5,
        callbacks=[PrintEveryHook(lines.append)],
    )
    assert lines == FIT


async def test_evaluate_calls_the_test_hooks_only(
    warm_trainer: fitbus.Trainer, examples: tuple[Array, Array]
) -> None:
    lines: list[str] = []
    await warm_trainer.evaluate(*examples, batch_size=128, callbacks=[PrintEveryHook(lines.append)])
    assert lines == EVALUATE


async def test_predict_calls_the_predict_hooks_only(
    warm_trainer: fitbus.Trainer, examples: tuple[Array, Array]
) -> None:
    lines: list[str] = []
    await warm_trainer.predict(
        examples[0], batch_size=128, callbacks=[PrintEveryHook(lines.append)]
    )
    assert lines == PREDICT


async def test_a_second_epoch_repeats_all_between_train_begin_and_train_end(
    warm_trainer: fitbus.Trainer, examples: tuple[Array, Array]
) -> None:
    lines: list[str] = []
    await warm_trainer.fit(
        *examples,
        batch_size=128,
        epochs=2,
        validation_split=0.5,
        callbacks=[PrintEveryHook(lines.append)],
    )
    second = [line.replace("epoch 0", "epoch 1") for line in FIT[1:-1]]
    assert lines == [*FIT[:-1], *second, FIT[-1]]


async def test_async_hooks_get_the_same_names_in_the_same_order(
    warm_trainer: fitbus.Trainer, examples: tuple[Array, Array]
) -> None:
    """Written in place: hooks may be `async def`, in one object with `def` ones or without."""

    class Trace(Callback):
        def __init__(self) -> None:
            self.lines: list[str] = []

        async def on_train_begin(self, logs: Logs | None = None) -> None:
            self.lines.append(f"train begin {sorted(logs or {})}")

        async def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
            self.lines.append(f"train batch {batch} begin {sorted(logs or {})}")

        async def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
            self.lines.append(f"train batch {batch} end {sorted(logs or {})}")

        async def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            self.lines.append(f"epoch {epoch} end {sorted(logs or {})}")

        def on_train_end(self, logs: Logs | None = None) -> None:
            self.lines.append(f"train end {sorted(logs or {})}")

    trace = Trace()
    await warm_trainer.fit(
        *examples, batch_size=128, epochs=1, validation_split=0.5, callbacks=[trace]
    )
    left_out = ("epoch 0 begin", "test")
    assert trace.lines == [line for line in FIT if not line.startswith(left_out)]


async def test_outputs_of_the_predict_batches_are_the_prediction(
    warm_trainer: fitbus.Trainer, examples: tuple[Array, Array]
) -> None:
    class Outputs(Callback):
        def __init__(self) -> None:
            self.outputs: list[Array] = []

        def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
            self.outputs.append((logs or {})["outputs"])

    kept = Outputs()
    whole = await warm_trainer.predict(examples[0], batch_size=128, callbacks=[kept])
    assert [len(part) for part in kept.outputs] == [128] * 7 + [104]
    np.testing.assert_array_equal(np.concatenate(kept.outputs), whole)
