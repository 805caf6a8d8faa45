"""Leaves out updates that would break the parameters, at the very step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, final, get_args

from fitbus.callbacks._arguments import check_whole, is_number
from fitbus.callbacks._callback import Callback, Logs
from fitbus.control import Control, Rejected, ScaleLearningRate, StopTraining
from fitbus.errors import ControlRejectedError, InvalidArgumentError, one_of
from fitbus.events import SkipAction, StepSkipped
from fitbus.train import Guarding, TrainState, copied

if TYPE_CHECKING:
    from fitbus.train import Engine, Run, Verdict

__all__ = ["Guard"]

_logger = logging.getLogger("fitbus")


@final
class Guard(Callback):
    """Leaves out each update that isn't finite, inside the compiled step, and acts on it.

    The step itself looks at its loss and at what it would make of the state, and where something
    isn't finite that was, or the update is longer than `max_norm`, the state stays as it was, bit
    for bit: parameters, optimizer and `extra`. Only `step` goes on, since it says which batch comes
    next and which random key belongs to it. A `StepSkipped` before the step's `BatchEnd` says which
    step and batch it was, which metric, and which leaf of the parameters. That batch counts in no
    running mean, so that `logs` stay finite; its `batch_logs` are as they were computed.

    `nonfinite` says what follows:

    - `"skip"`: nothing;
    - `"stop"`: training is asked to stop, with a reason that names step and leaf;
    - `"rollback"`: training goes back to the newest copy of the state that is at least
      `snapshot_every` steps old (to the oldest one if none is), and on with the next batch; `step`
      goes back with it. Where asked, the learning rate is scaled then.

    With the last two, steps that were in flight behind it change nothing and aren't told of, and
    their batches come again: what comes of it is the same in every run, however far steps ran ahead
    of the events. With `steps_per_execution` too; what the guard does, it does between two
    executions.

    What it can see, of any task, are the metrics of a step, and the state before and after it. The
    optimizers of Optax make a non-finite update, or moment, of a non-finite gradient, and that is
    seen. What a task or an optimizer makes finite again isn't: `optax.clip` and `optax.sign_sgd` of
    an infinite gradient, `optax.zero_nans`, `optax.apply_if_finite`, the loss scale of mixed
    precision. `optax.clip_by_global_norm` carries a NaN from one leaf into all of them; the first
    one is named. Values that weren't finite before, such as a mask of infinities among the
    parameters, are let be.

    Costs no transfer where somebody listens to batches, and no wait; where nobody does, the values
    of one step are read every `flush_s`. On the device, the old state is kept until the new one has
    been looked at: memory for one more, and a pass over it. `"rollback"` keeps two or three copies
    of the state on the device, and more if several are taken within the steps in flight. With the
    last two, or a `limit`, the batches in flight are kept, and those of a source that may use its
    buffers again are copied. A guarded step is a program of its own, compiled beside the other one.

    Differs from Keras in being there. `TerminateOnNaN` stops after a NaN has gone into the
    parameters.

    Args:
        nonfinite: What follows, as above.
        max_norm: The longest update: the L2 norm of the difference that a step makes to all
            parameters together. Not that of the gradient, which a task needn't show: of plain
            gradient descent it is the learning rate times that. None for any.
        metrics: The names of the metrics that must be finite. None: `loss`, and those that end in
            `_loss`; other metrics may be NaN for good reasons.
        limit: After so many steps in a row that were left out, or with `"rollback"` after so many
            ways back in one training, it is asked to stop. None for no limit.
        snapshot_every: With `"rollback"`: a copy of the state is taken every so many steps.
        scale_learning_rate: With `"rollback"`: the factor by which the learning rate is multiplied,
            each time; above 0. None leaves it. It must be this callback's to set, as that of
            `ReduceLROnPlateau` must.

    Attributes:
        skipped: Steps that were left out in this training, and
        rollbacks: how often it went back.

    Raises:
        InvalidArgumentError: An argument is out of range; in `fit`, before the first step: there
            are two of them, `metrics` names one that there isn't, the learning rate isn't its to
            set, or `jax_debug_nans` or `jax_debug_infs` is on, which would raise before it acts.

    Source: for leaving out updates, Optax' `apply_if_finite`, and the loss scale of P. Micikevicius
    et al., "Mixed Precision Training", 2018; for going back and leaving out the batches at which
    the loss went up, A. Chowdhery et al., "PaLM", 2022, section 5.1.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    skipped: int
    rollbacks: int
    _snapshots: list[_Snapshot]  # the oldest one first
    _aimed: _Snapshot | None  # that is gone back to at the next boundary
    _last: tuple[int, StepSkipped]  # the last step that was left out

    def __init__(
        self,
        nonfinite: Literal["skip", "stop", "rollback"] = "skip",
        max_norm: float | None = None,
        *,
        metrics: Sequence[str] | None = None,
        limit: int | None = 100,
        snapshot_every: int = 100,
        scale_learning_rate: float | None = None,
    ) -> None:
        if nonfinite not in get_args(SkipAction):
            raise InvalidArgumentError("Guard.nonfinite", nonfinite, one_of(get_args(SkipAction)))
        _check_above_0("max_norm", max_norm)
        _check_above_0("scale_learning_rate", scale_learning_rate)
        if scale_learning_rate is not None and nonfinite != "rollback":
            raise InvalidArgumentError(
                "Guard.scale_learning_rate",
                scale_learning_rate,
                "it goes with nonfinite='rollback'; leave it out",
            )
        names: Any = metrics
        if names is not None and (
            isinstance(names, str)
            or not isinstance(names, Sequence)
            or not all(isinstance(name, str) and name for name in names)
        ):
            raise InvalidArgumentError("Guard.metrics", metrics, "give a list of names, or None")
        if limit is not None:
            check_whole("Guard", "limit", limit, 1, also=", or None")
        check_whole("Guard", "snapshot_every", snapshot_every, 1)
        self.nonfinite = nonfinite
        self.max_norm = max_norm
        self.metrics = None if metrics is None else tuple(metrics)
        self.limit = limit
        self.snapshot_every = snapshot_every
        self.scale_learning_rate = scale_learning_rate
        self._begin()

    @property
    def guarding(self) -> Guarding:
        """What the compiled step looks at."""
        halts_after = self.limit if self.nonfinite == "skip" else 1
        max_norm = None if self.max_norm is None else float(self.max_norm)
        return Guarding(self.metrics, max_norm, halts_after)

    def attach(self, run: Run[Any]) -> None:
        """Has the run's steps guarded.

        Raises:
            InvalidArgumentError: Another Guard has.
        """
        super().attach(run)
        run.preparation.guard_with(self)
        if self.scale_learning_rate is not None:
            run.preparation.claim("learning_rate", "Guard")
        if self.nonfinite == "rollback":
            run.preparation.boundaries.append(self._at_boundary)
        self._begin()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Lets go of the copies."""
        self._snapshots = []

    def state_dict(self) -> dict[str, Any]:
        """What it has counted."""
        return {"skipped": self.skipped, "rollbacks": self.rollbacks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        self.skipped, self.rollbacks = state["skipped"], state["rollbacks"]

    def skipped_step(self, engine: Engine, batch: int, step: int, verdict: Verdict) -> StepSkipped:
        """Tells of a step that was left out; training calls it."""
        self.skipped += 1
        action: SkipAction = "skip"
        if verdict.halts:
            used_up = self.limit is not None and self.rollbacks >= self.limit
            action = "stop" if self.nonfinite != "rollback" or used_up else "rollback"
        if action == "rollback":
            self._aimed = self._aim(step)
        event = StepSkipped(
            batch=batch,
            metric=verdict.metric,
            leaf=_path(engine.steps.task, verdict.leaf),
            reason="max_norm" if verdict.too_long else "nonfinite",
            action=action,
            back_to=-1 if self._aimed is None else self._aimed.step,
        )
        self._last = step, event
        if self.skipped & (self.skipped - 1) == 0:  # the first, the second, the fourth, ...
            _logger.warning(
                "Guard left out %d of the steps of this training, the last %s",
                *(self.skipped, self._where(step, event)),
            )
        return event

    def act(self, engine: Engine) -> None:
        """Acts on it, at the next boundary; training calls it."""
        aimed, self._aimed = self._aimed, None
        if aimed is None:
            _apply(engine, StopTraining(self._reason(*self._last)))
            return
        self.rollbacks += 1
        engine.restore(copied(aimed.state))
        if self.scale_learning_rate is not None:
            _apply(engine, ScaleLearningRate(self.scale_learning_rate))
            # So that it is scaled further if this is gone back to once more.
            aimed = _Snapshot(aimed.step, copied(engine.state))
        # Which older ones are there depends on how far steps ran ahead: nothing may depend on them.
        self._snapshots = [aimed]

    def _aim(self, step: int) -> _Snapshot:
        """The newest copy that is old enough at a step; or the oldest one."""
        before = [each for each in self._snapshots if each.step < step]
        old = [each for each in before if step - each.step >= self.snapshot_every]
        return old[-1] if old else before[0]

    def _reason(self, step: int, event: StepSkipped) -> str:
        """Why it stops, in words."""
        reason = self._where(step, event)
        if self.nonfinite == "skip":
            return f"{self.limit} steps in a row were left out, the last {reason}"
        if self.nonfinite == "rollback":
            return f"training went back {self.limit} times, and would again {reason}"
        return f"left out an update {reason}"

    def _where(self, step: int, event: StepSkipped) -> str:
        what = [f"{name!r} isn't finite" for name in (event.metric, event.leaf) if name]
        if event.reason == "max_norm":
            what = [f"the update was longer than {self.max_norm}, most of all {event.leaf!r}"]
        return f"at step {step}, batch {event.batch}: {', '.join(what)}"

    def _at_boundary(self, engine: Engine) -> None:
        """Takes a copy, if it is time to; waits for nothing."""
        kept, every = self._snapshots, self.snapshot_every
        while kept and kept[-1].step > engine.updates:
            kept.pop()  # of a time that was given up: a checkpoint was restored
        if self._aimed is not None or (kept and engine.updates - kept[-1].step < every):
            return
        kept.append(_Snapshot(engine.updates, copied(engine.state)))
        # Of steps in flight it isn't known yet whether they will go back, and whereto.
        next_step = engine.publisher.step + 1
        while len(kept) > 1 and next_step - kept[1].step >= every:
            del kept[0]

    def _begin(self) -> None:
        self.skipped = self.rollbacks = 0
        self._snapshots = []
        self._aimed = None
        self._last = 0, StepSkipped(batch=0)


class _Snapshot(NamedTuple):
    """A state that was good."""

    step: int
    state: TrainState


def _apply(engine: Engine, control: Control) -> None:
    receipt = engine.publisher.post(control, "Guard")
    engine.publisher.desk.serve()
    if isinstance(receipt.outcome, Rejected):
        raise ControlRejectedError(control, receipt.outcome.why)


def _path(task: object, leaf: str) -> str:
    """The path of a leaf; of a Keras model's parameters with the variable's own."""
    kind, _, number = leaf.partition("/")
    variables = getattr(getattr(task, "model", None), "trainable_variables", None)
    if kind != "params" or not number.isdigit() or variables is None:
        return leaf
    return f"params/{variables[int(number)].path}"


def _check_above_0(argument: str, value: object) -> None:
    if value is not None and not (is_number(value) and 0 < value < float("inf")):
        raise InvalidArgumentError(f"Guard.{argument}", value, "give a finite number above 0")
