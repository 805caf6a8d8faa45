"""Every class of `keras.callbacks`, unmodified: decisions, files and prints as in Keras."""

from __future__ import annotations

import inspect
import pathlib
import re
import warnings
from typing import Any

import jax
import keras
import orbax.checkpoint
import pytest

import fitbus

from ._builtin import ENTRIES, NAN_LATER
from ._unmodified import Outcome, Pair, check_same, close, pair, x

K: Any = keras.callbacks
LOADS: Any = keras.models.load_model


def test_every_class_of_keras_has_an_entry() -> None:
    """A new one in Keras fails here."""
    theirs = {name for name, found in vars(K).items() if inspect.isclass(found)}
    assert theirs == set(ENTRIES)


def models_for(name: str) -> Pair:
    """Both models, compiled once."""
    return pair("ema" if name == "SwapEMAWeights" else "dense")


@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name, made in ENTRIES.items() for n in range(len(made))]
)
def test_it_does_what_it_does_in_keras(name: str, number: int, tmp_path: pathlib.Path) -> None:
    """History, weights, prints, warnings, attributes and files; in a second fit too."""
    make, given = ENTRIES[name][number]
    options: dict[str, Any] = {"epochs": 4, "validation_split": 1 / 3, **given}
    models = models_for(name)
    models.reset()
    folders = [tmp_path / "ours", tmp_path / "theirs"]
    for folder in folders:
        folder.mkdir()
    ours, theirs = (make(folder) for folder in folders)
    verbose = options.get("verbose", 0)
    # Keras' own has no second fit with the same folder of Orbax.
    for fit in range(1 if name == "OrbaxCheckpoint" else 2):
        found = models.by_fitbus([ours], **options)
        if name == "SwapEMAWeights" and fit == 1:
            break  # Keras on JAX can't fit a second time with `use_ema`
        expected = models.by_keras([theirs], **options)
        if name == "History":  # what Keras returns is the object, which goes on over both fits
            assert close(ours.history, theirs.history)
            last = {key: rows[-4:] for key, rows in theirs.history.items()}
            expected = expected._replace(result=last)
        check_same(_timeless(found, folders[0]), _timeless(expected, folders[1]))
        assert len(found.warned) == len(expected.warned), (found.warned, expected.warned)
        assert bool(expected.printed) == (verbose > 0) or name != "ProgbarLogger"
        assert close(plain(ours), plain(theirs))
        check_files(*folders)
        if name == "BackupAndRestore" and fit == 0:
            models.theirs._initial_epoch = None  # here Keras' later fit would run no epoch
            for folder in folders:
                for path in folder.rglob("*.*"):
                    path.unlink()


def _timeless(outcome: Outcome, folder: pathlib.Path) -> Outcome:
    """What was printed, without the time that it took."""
    printed = outcome.printed.replace(str(folder), "FOLDER")
    printed = re.sub(r"\d+[mu]?s/step|\d+:\d+|(?<= )\d+s(?= )", "TIME", printed)
    lines = [line for line in re.split(r"[\r\n]+", printed) if line.strip()]
    last = [line for line in lines if not re.search(r"(\b\d+)/(?!\1\b)\d+ .*step", line)]
    return outcome._replace(printed="\n".join(last))


def plain(callback: Any) -> dict[str, Any]:
    """Its attributes that are plain values."""
    return {
        key: value
        for key, value in sorted(vars(callback).items())
        if isinstance(value, int | float | str | None)
        and not any(word in key for word in ("path", "dir", "filename"))
    }


def check_files(ours: pathlib.Path, theirs: pathlib.Path) -> None:
    """Fails unless two folders hold the same files, with the same values in them."""
    names = [sorted(str(p.relative_to(f)) for p in f.rglob("*.*")) for f in (ours, theirs)]
    assert names[0] == names[1]
    for name in names[0]:
        mine, their = ours / name, theirs / name
        if name.endswith(".keras"):
            first, second = (LOADS(path) for path in (mine, their))
            assert close(first.get_weights(), second.get_weights())
            assert close(*([v.numpy() for v in m.optimizer.variables] for m in (first, second)))
        elif name.endswith(".weights.h5"):
            first, second = pair().ours, pair().theirs
            kept = [model.get_weights() for model in (first, second)]
            first.load_weights(mine)
            second.load_weights(their)
            assert close(first.get_weights(), second.get_weights())
            first.set_weights(kept[0])
            second.set_weights(kept[1])
        elif name.endswith((".csv", ".json")):
            numbers = [
                [float(n) for n in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", path.read_text())]
                for path in (mine, their)
            ]
            assert close(*numbers)
            words = [re.sub(r"[\d.e-]+", "", path.read_text()) for path in (mine, their)]
            assert words[0] == words[1]


def test_the_model_has_the_history_object_that_was_given() -> None:
    """`model.history`, as in Keras."""
    models = pair()
    models.reset()
    history = K.History()
    found = models.by_fitbus([history], epochs=2)
    assert models.ours.history is history
    assert history.history == found.result.history
    assert history.epoch == [0, 1]


def test_an_orbax_checkpoint_holds_what_that_of_keras_holds(tmp_path: pathlib.Path) -> None:
    """Weights and the optimizer's variables of the last epoch. (Keras' loader leaves them out.)"""
    models = pair()
    models.reset()
    models.by_fitbus([K.OrbaxCheckpoint(tmp_path / "ours")], epochs=2)
    models.by_keras([K.OrbaxCheckpoint(tmp_path / "theirs")], epochs=2)
    assert [path.name for path in (tmp_path / "ours").iterdir()] == ["1"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Orbax tells how it places the arrays
        reads = orbax.checkpoint.PyTreeCheckpointer()
        mine, their = (reads.restore(tmp_path / of / "1" / "pytree") for of in ("ours", "theirs"))
    for name in ("trainable_variables", "optimizer_variables"):
        pairs = zip(*(jax.tree.leaves(found[name]) for found in (mine, their)), strict=True)
        assert all(close(first, second) for first, second in pairs)
    kernel = next(iter(mine["trainable_variables"].values()))["hidden"]["kernel"]
    assert close(kernel, models.ours.get_weights()[0])


def test_nan_that_raises_ends_the_fit_with_keras_error() -> None:
    """`TerminateOnNaN(raise_error=True)`; `on_train_end` is called here."""
    models = pair()
    models.reset()
    ended: list[Any] = []
    ends = K.LambdaCallback(on_train_end=ended.append)
    for train in (models.by_fitbus, models.by_keras):
        with pytest.raises(RuntimeError, match="NaN or Inf loss encountered"):
            train([K.TerminateOnNaN(raise_error=True), ends], data=(x, NAN_LATER))
    assert len(ended) == 1


def test_the_progress_bar_of_keras_takes_the_place_of_ours() -> None:
    """One bar, not two; in a nested list and in a `CallbackList` too."""
    models = pair()
    for given in (K.ProgbarLogger(), [[K.ProgbarLogger()]], K.CallbackList([K.ProgbarLogger()])):
        models.reset()
        found = models.by_fitbus([given], verbose=2)
        assert found.printed.count("loss:") == 1
    assert (
        models.by_fitbus([fitbus.callbacks.ProgressBar(live=False)], verbose=2).printed.count(
            "loss"
        )
        == 1
    )
