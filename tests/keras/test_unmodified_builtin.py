"""Every class of `keras.callbacks`, unmodified: decisions, files and prints as in Keras."""
# mypy: allow-subclassing-any
# ruff: noqa: T201  # callbacks that print

from __future__ import annotations

import inspect
import pathlib
import re
import warnings
from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np
import orbax.checkpoint
import pytest

import fitbus
from fitbus.testing import toy_problem

from ._unmodified import Outcome, Pair, check_same, close, pair, x, y

Made = Callable[[pathlib.Path], Any]
K: Any = keras.callbacks
Base: Any = keras.callbacks.Callback

NAN_LATER = np.where(np.arange(48)[:, None] < 20, y, np.nan).astype(np.float32)

# Each class, made with arguments that let it act; and the options of the fit.
ENTRIES: dict[str, list[tuple[Made, dict[str, Any]]]] = {
    "BackupAndRestore": [
        (lambda folder: K.BackupAndRestore(folder / "b", delete_checkpoint=False), {}),
        (lambda folder: K.BackupAndRestore(folder / "b", 2, delete_checkpoint=False), {}),
        (lambda folder: K.BackupAndRestore(folder / "b"), {}),
    ],
    "CSVLogger": [
        (lambda folder: K.CSVLogger(folder / "log.csv"), {}),
        (lambda folder: K.CSVLogger(folder / "log.csv", ";", append=True), {"validation_freq": 2}),
    ],
    "EarlyStopping": [
        (lambda _: K.EarlyStopping("val_loss", min_delta=100, verbose=1), {}),
        (
            lambda _: K.EarlyStopping(
                "val_mae", min_delta=100, verbose=1, patience=2, restore_best_weights=True
            ),
            {},
        ),
        (lambda _: K.EarlyStopping("nothing", mode="min"), {}),
    ],
    "History": [(lambda _: K.History(), {})],
    "LambdaCallback": [
        (lambda _: K.LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, list(logs))), {}),
        (lambda _: K.LambdaCallback(on_test_begin=lambda logs: print("tested", logs)), {}),
    ],
    "LearningRateScheduler": [
        (lambda _: K.LearningRateScheduler(lambda epoch, rate: rate * 0.5, verbose=1), {}),
        (lambda _: K.LearningRateScheduler(lambda epoch: 0.01 / (epoch + 1)), {}),
    ],
    "ModelCheckpoint": [
        (lambda folder: K.ModelCheckpoint(folder / "{epoch}-{val_loss:.2f}.keras", verbose=1), {}),
        (
            lambda folder: K.ModelCheckpoint(
                folder / "{epoch}.weights.h5", save_weights_only=True, save_best_only=True
            ),
            {},
        ),
        (lambda folder: K.ModelCheckpoint(folder / "{epoch}-{batch}.keras", save_freq=2), {}),
    ],
    "OrbaxCheckpoint": [
        (lambda folder: K.OrbaxCheckpoint(folder / "o", save_weights_only=True, max_to_keep=2), {}),
    ],
    "ProgbarLogger": [
        (lambda _: K.ProgbarLogger(), {"verbose": 2}),
        (lambda _: K.ProgbarLogger(), {"verbose": 1}),
        (lambda _: K.ProgbarLogger(), {"verbose": 0}),
    ],
    "ReduceLROnPlateau": [
        (
            lambda _: K.ReduceLROnPlateau(
                "val_loss", 0.5, patience=1, verbose=1, min_delta=100, min_lr=0.02
            ),
            {},
        )
    ],
    "SwapEMAWeights": [
        (lambda _: K.SwapEMAWeights(), {}),
        (lambda _: K.SwapEMAWeights(swap_on_epoch=True), {}),
    ],
    "TerminateOnNaN": [
        (lambda _: K.TerminateOnNaN(), {}),
        (lambda _: K.TerminateOnNaN(), {"data": (x, NAN_LATER)}),
    ],
    # Of these, `test_backend.py` shows what they say where what they need isn't installed.
    "RemoteMonitor": [],
    "TensorBoard": [],
    # No callbacks by themselves.
    "Callback": [],
    "CallbackList": [],
}


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
    make, options = ENTRIES[name][number]
    models = models_for(name)
    models.reset()
    folders = [tmp_path / "ours", tmp_path / "theirs"]
    for folder in folders:
        folder.mkdir()
    ours, theirs = (make(folder) for folder in folders)
    verbose = options.get("verbose", 0)
    # Keras' own has no second fit with the same folder of Orbax.
    for fit in range(1 if name == "OrbaxCheckpoint" else 2):
        options = {"epochs": 4, "validation_split": 1 / 3, **options}
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
            first, second = (keras.models.load_model(path) for path in (mine, their))
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


class Breaks(Base):
    """Breaks a fit off in an epoch."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1 and int(self.model.optimizer.iterations) > 6:
            raise self.error


@pytest.mark.parametrize("save_freq", ["epoch", 2])
@pytest.mark.parametrize("error", [OSError("broken"), KeyboardInterrupt()])
def test_a_broken_fit_goes_on_from_its_backup_and_the_next_fit_is_not_stuck(
    tmp_path: pathlib.Path, error: BaseException, save_freq: Any
) -> None:
    """The same epochs, and the same weights, as in Keras; whose later `fit` runs no epoch."""
    models = pair()
    models.reset()
    weights: dict[str, Any] = {}
    for name, train in (("ours", models.by_fitbus), ("theirs", models.by_keras)):
        path = tmp_path / name
        with pytest.raises(type(error)):
            train([K.BackupAndRestore(path, save_freq), Breaks(error)], epochs=5)
        assert (path / "latest.weights.h5").exists()
        found = train([K.BackupAndRestore(path, save_freq)], epochs=5)
        assert found.result.epoch == [2, 3, 4]
        assert not path.exists()
        weights[name] = found.weights
    assert close(weights["ours"], weights["theirs"])
    assert models.by_keras([], epochs=2).result.epoch == []
    assert models.by_fitbus([K.LambdaCallback(on_train_begin=print)], epochs=2).result.epoch == [
        0,
        1,
    ]


def test_what_keras_left_in_the_model_does_not_hold_a_later_fit_up(tmp_path: pathlib.Path) -> None:
    """A model that Keras' own fit resumed is trained by fitbus from epoch 0."""
    models = pair()
    models.reset()
    models.ours._initial_epoch = 3
    found = models.by_fitbus([K.LambdaCallback(on_train_begin=print)], epochs=2)
    assert found.result.epoch == [0, 1]


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


def test_the_progress_bar_of_keras_takes_the_place_of_ours(capsys: Any) -> None:
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


# On a task that isn't Keras'.

ELSEWHERE = {
    "BackupAndRestore": "use fitbus.callbacks.BackupAndRestore",
    "ModelCheckpoint": "use fitbus.callbacks.ModelCheckpoint",
    "OrbaxCheckpoint": "use fitbus.callbacks.OrbaxCheckpoint",
    "SwapEMAWeights": "use fitbus.callbacks.SwapEMAWeights",
}


@pytest.fixture(scope="module")
def toy() -> Any:
    """A trainer of a task of fitbus' own."""
    problem = toy_problem()
    return problem, fitbus.Trainer(problem.task, problem.params)


@pytest.mark.parametrize("name", [name for name, made in ENTRIES.items() if made])
def test_on_another_task_it_works_or_says_what_to_do(
    name: str, toy: Any, tmp_path: pathlib.Path
) -> None:
    """Before the first step."""
    problem, trainer = toy
    make, _ = ENTRIES[name][0]
    callback = make(tmp_path)
    if name in ELSEWHERE:
        with pytest.raises(fitbus.errors.InvalidArgumentError, match=ELSEWHERE[name]):
            trainer.run(problem.x, problem.y, callbacks=[callback])
        return
    history = trainer.fit_sync(
        problem.x, problem.y, epochs=4, validation_split=0.5, callbacks=[callback]
    )
    epochs = 2 if name == "EarlyStopping" else 4
    assert len(history.epoch) == epochs
    rates = history.history.get("learning_rate")
    assert (rates is not None) == (name in ("ReduceLROnPlateau", "LearningRateScheduler"))
    assert rates is None or rates[-1] < 0.1


def test_on_another_task_a_direction_has_to_be_told(toy: Any) -> None:
    """Keras looks for the model's metric objects, and says so."""
    problem, trainer = toy
    monitor = "val_mean_absolute_error"
    with pytest.raises(ValueError, match="mode"):
        trainer.fit_sync(
            problem.x, problem.y, validation_split=0.5, callbacks=[K.EarlyStopping(monitor)]
        )
    stops = K.EarlyStopping(
        monitor, min_delta=100, mode="max", patience=1, restore_best_weights=True
    )
    history = trainer.fit_sync(
        problem.x, problem.y, epochs=9, validation_split=0.5, callbacks=[stops]
    )
    assert len(history.epoch) == 2
    assert close(stops.best_weights, [np.asarray(trainer.state.params[name]) for name in "bw"])
