"""A compiled Keras model and its callbacks, unmodified, beside an async handler."""

from __future__ import annotations

import anyio
import pytest

from fitbus.examples import keras_model


@pytest.mark.slow
def test_the_handler_stops_it_and_the_model_has_what_was_learned(
    capsys: pytest.CaptureFixture[str],
) -> None:
    history = anyio.run(keras_model.show)
    accuracies = history.history["val_accuracy"]
    assert accuracies[-1] > 0.86 >= max(accuracies[:-1])  # stopped at once, before the 20th
    assert history.history["learning_rate"][-1] < history.history["learning_rate"][0]
    lines = capsys.readouterr().out.splitlines()
    rates = [line for line in lines if "learning rate" in line]
    assert len(rates) == len(accuracies) == len([line for line in lines if ": accuracy" in line])
    assert float(lines[-1].split("loss ")[1].split(",")[0]) < history.history["loss"][0] / 2
