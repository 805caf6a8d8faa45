"""The arguments of `fit`, checked, and the job that they make."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral
from typing import Any, Literal, TypeAlias, TypedDict, final

import jax
import numpy as np

from fitbus import journal
from fitbus.errors import DataError, InvalidArgumentError
from fitbus.events import Event
from fitbus.train._arrays import Shuffle, arrays_of, is_arrays, rows, tupled
from fitbus.train._data import source
from fitbus.train._feed import Feed
from fitbus.train._fit import FitJob
from fitbus.train._pass import Pull
from fitbus.train._repeating import Record
from fitbus.train._steps import Steps
from fitbus.train._weights import check_weight

__all__ = [
    "BATCH_SIZE",
    "FIT_OPTIONS",
    "Controls",
    "FitArguments",
    "FitOptions",
    "RunOptions",
    "Verbose",
    "positive",
    "seconds",
    "verbosity",
]

BATCH_SIZE = 32  # where None is given

Verbose: TypeAlias = int | Literal["auto"]
Controls: TypeAlias = str | os.PathLike[str] | Iterable[Event] | None


class FitOptions(TypedDict, total=False):
    """The keyword arguments of `Trainer.fit`."""

    batch_size: int | None
    epochs: int
    verbose: Verbose
    callbacks: Iterable[Any] | None
    validation_split: float
    validation_data: Any
    shuffle: Shuffle
    class_weight: Mapping[int, float] | Mapping[str, float] | None
    sample_weight: Any
    initial_epoch: int
    steps_per_epoch: int | None
    validation_steps: int | None
    validation_batch_size: int | None
    validation_freq: int | Collection[int]
    steps_per_execution: int | Literal["auto"]
    controls: Controls
    grace_s: float
    drain_s: float


class RunOptions(FitOptions, total=False):
    """The keyword arguments of `Trainer.run`: those of `Trainer.fit`, and the run's id."""

    run_id: str | None


FIT_OPTIONS = frozenset(FitOptions.__annotations__)


@final
@dataclasses.dataclass(frozen=True)
class FitArguments:
    """What `fit` was given besides data, callbacks and times."""

    batch_size: int | None = BATCH_SIZE
    epochs: int = 1
    verbose: Verbose = 0
    validation_split: float = 0.0
    validation_data: Any = None
    shuffle: Shuffle = True
    class_weight: Any = None
    sample_weight: Any = None
    initial_epoch: int = 0
    steps_per_epoch: int | None = None
    validation_steps: int | None = None
    validation_batch_size: int | None = None
    validation_freq: int | Collection[int] = 1
    steps_per_execution: int | Literal["auto"] = 1
    controls: Controls = None

    def __post_init__(self) -> None:
        positive("batch_size", self.batch_size, none=True)
        positive("epochs", self.epochs, zero=True)
        positive("initial_epoch", self.initial_epoch, zero=True)
        positive("steps_per_epoch", self.steps_per_epoch, none=True)
        positive("validation_steps", self.validation_steps, none=True)
        positive("validation_batch_size", self.validation_batch_size, none=True)
        if self.steps_per_execution != "auto":
            positive("steps_per_execution", self.steps_per_execution, also='"auto"')
        verbosity(self.verbose)
        if self.controls is not None:
            journal.check_events("controls", self.controls)
        if not isinstance(self.shuffle, bool) and self.shuffle != "batch":
            raise InvalidArgumentError("shuffle", self.shuffle, "allowed are True, False, 'batch'")
        split = self.validation_split
        if isinstance(split, bool) or not isinstance(split, int | float) or not 0 <= split < 1:
            raise InvalidArgumentError(
                "validation_split", split, "give a fraction of at least 0 and below 1"
            )
        freq = self.validation_freq
        if isinstance(freq, Integral):
            positive("validation_freq", freq, also="a collection of epoch numbers")
        elif isinstance(freq, str) or not (
            isinstance(freq, Collection)
            and all(isinstance(number, Integral) and number >= 1 for number in freq)
        ):
            raise InvalidArgumentError(
                "validation_freq",
                freq,
                "give a whole number of at least 1, or a collection of such epoch numbers",
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> FitArguments:
        """Takes what `Trainer.run` was given.

        Raises:
            TypeError: It takes no argument of that name.
        """
        for name in given:
            if name not in cls.__dataclass_fields__:
                raise TypeError(f"Trainer.run() got an unexpected keyword argument {name!r}")
        return cls(**given)

    def job(
        self,
        x: Any,
        y: Any,
        *,
        seed: tuple[int, ...],
        task: Steps,
        pull: Pull,
    ) -> FitJob:
        """Makes the job: the data are looked at here, before anything starts."""

        def feed(
            argument: str, x: Any, y: Any, weight: Any, steps: int | None, *, training: bool
        ) -> Feed:
            data = source(
                x,
                y,
                weight,
                self.class_weight if training else None,
                argument=argument,
                batch_size=(not training and self.validation_batch_size)
                or self.batch_size
                or BATCH_SIZE,
                shuffle=self.shuffle if training else False,
                seed=seed,
                pad=task.pad,
                pull=pull,
                as_given=task.as_given,
            )
            return Feed(argument, data, steps, anew=not training)

        weight, validation = self.sample_weight, self.validation_data
        freq = self.validation_freq
        if self.validation_split and validation is None:
            x, y, weight, validation = self._split(x, y, weight)
        shown: Feed | None = None
        if validation is not None:
            parts = self._validation_parts(validation)
            shown = feed("validation_data", *parts, self.validation_steps, training=False)
        return FitJob(
            feed("x", x, y, weight, self.steps_per_epoch, training=True),
            epochs=self.epochs,
            initial_epoch=self.initial_epoch,
            validation=shown,
            verbose=verbosity(self.verbose),
            validation_freq=freq if isinstance(freq, Collection) else int(freq),
            steps_per_execution=self.steps_per_execution,
            record=None if self.controls is None else Record(self.controls),
        )

    def _validation_parts(self, validation: Any) -> tuple[Any, Any, Any]:
        if _is_arrays_with_targets(validation):
            if len(validation) > 3:
                raise InvalidArgumentError(
                    "validation_data",
                    f"a tuple of {len(validation)}",
                    "give (x, y) or (x, y, sample_weight)",
                )
            x, y, weight = (*validation, None, None)[:3]
            return x, y, weight
        return validation, None, None

    def _split(self, x: Any, y: Any, weight: Any) -> tuple[Any, Any, Any, Any]:
        if y is None and not is_arrays(x):
            raise InvalidArgumentError(
                "validation_split",
                self.validation_split,
                "it works on arrays only; give validation_data for batches",
            )
        x, y, weight = arrays_of("x", x), arrays_of("y", y), tupled(weight)
        count = rows(x)
        if y is not None and rows(y, "y") != count:
            raise DataError("y", f"it has {rows(y, 'y')} examples, and x has {count}")
        at = math.floor(count * (1 - self.validation_split))
        if at in (0, count):
            raise InvalidArgumentError(
                "validation_split",
                self.validation_split,
                f"of {count} examples it leaves {at} to train on and {count - at} to validate on;"
                " both need at least one",
            )
        several = isinstance(weight, tuple) and any(np.ndim(part) > 0 for part in weight)
        if weight is not None and not several and np.ndim(weight) == 1:
            weight = check_weight("sample_weight", weight, count)

        def part(tree: Any, picked: slice) -> Any:
            return None if tree is None else jax.tree.map(lambda leaf: leaf[picked], tree)

        head, tail = slice(0, at), slice(at, count)
        return (
            part(x, head),
            part(y, head),
            part(weight, head),
            (part(x, tail), part(y, tail), part(weight, tail)),
        )


def _is_arrays_with_targets(data: Any) -> bool:
    """Whether it is `(x, y, sample_weight)`, or the beginning of it, and not batches."""
    if not isinstance(data, tuple) or not data:
        return False
    several = len(data) > 1  # of one alone, a list is one of batches
    return all(
        part is None or is_arrays(part) or (several and isinstance(part, list)) for part in data
    )


def positive(
    argument: str, value: Any, *, zero: bool = False, none: bool = False, also: str = ""
) -> None:
    """Refuses what is no whole number of at least 1 (or 0)."""
    if none and value is None:
        return
    least = 0 if zero else 1
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        allowed = f"give a whole number of at least {least}"
        raise InvalidArgumentError(argument, value, f"{allowed}, or {also}" if also else allowed)


def seconds(argument: str, value: Any, *, zero: bool = False) -> None:
    """Refuses what is no time in seconds."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise InvalidArgumentError(
            argument, value, f"give seconds, a number {'of at least' if zero else 'above'} 0"
        )


def verbosity(verbose: Any) -> int:
    """What `verbose` means, as a number: `"auto"` is 1. Refuses what Keras doesn't know."""
    if isinstance(verbose, str) and verbose == "auto":
        return 1
    if not isinstance(verbose, Integral) or verbose not in (0, 1, 2):
        raise InvalidArgumentError("verbose", verbose, "allowed are 0, 1, 2, 'auto'")
    return int(verbose)
