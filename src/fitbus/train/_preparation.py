"""What callbacks settle with a run before its first step."""

from __future__ import annotations

import heapq
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final

from fitbus.control import Control
from fitbus.errors import InvalidArgumentError
from fitbus.train._applying import hyperparameters, scheduled
from fitbus.train._position import Position, Restored

if TYPE_CHECKING:
    from fitbus.train._checkpointing import Store
    from fitbus.train._engine import Engine
    from fitbus.train._guarding import Guarding
    from fitbus.train._watch import Guards

__all__ = ["Preparation", "Remembers"]

Ask: TypeAlias = Callable[[int], tuple[Control | None, int | None]]


class Remembers(Protocol):
    """A callback, as far as a checkpoint is concerned."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        ...


@final
class Preparation:
    """Monitors are checked, hyperparameters get one owner each, and a backup is restored.

    Attributes:
        added_logs: Names that callbacks may add to the logs of an epoch.
        restorers: Asked, in order, before the run begins; the first answer that isn't None counts.
        resumed: Where a training that goes on begins, known in `on_train_begin`; else None.
        callbacks: The run's callback objects, in order, each with the name under which a
            checkpoint keeps what it remembers.
        planned: Who is asked at a step to come, soonest first; see `ask_at`.
        went_back: The place in the training to which it went back last; None if it never did.
        store: Who keeps checkpoints that are asked for; None if nobody does.
        boundaries: Called in the training thread at each boundary of a training's batches and
            epochs, when all handlers of what came before have finished: for what must see the state
            and all callbacks at one moment. An error ends the run.
        unwinding: Called in the training thread on every way out of a run, with the error that ends
            it or None, before its end is told: for what a hook that isn't called any more would
            have put back.
        endings: Called in the training thread when a training has ended well, and so have all
            waiting handlers of its end. An error is the run's.
        guard: Who guards the steps; None if nobody does.
        acts: Called at a boundary, before what is there is kept: lets the guard act on all steps
            that were dispatched.
        data: What puts the data back to the place at a boundary (`Position.data`); for who goes
            through them.
    """

    def __init__(self) -> None:
        self._checks: list[Callable[[frozenset[str]], object]] = []
        self._owners: dict[str, str] = {}
        self.added_logs: frozenset[str] = frozenset()
        self.restorers: list[Callable[[], Restored | None]] = []
        self.resumed: Position | None = None
        self.went_back: Position | None = None
        self.store: Store | None = None
        self.callbacks: list[tuple[str, Remembers]] = []
        self.boundaries: list[Callable[[Engine], object]] = []
        self.unwinding: list[Callable[[Engine, BaseException | None], object]] = []
        self.endings: list[Callable[[], object]] = []
        self.planned: list[tuple[int, int, str, Ask]] = []
        self._plans = 0
        self.guard: Guards | None = None
        self.acts: Callable[[], object] = lambda: None
        self.data: Callable[[], Mapping[str, Any]] | None = None

    @property
    def guarding(self) -> Guarding | None:
        """What guarded steps look at; None if they aren't guarded."""
        return None if self.guard is None else self.guard.guarding

    def guard_with(self, guard: Guards) -> None:
        """Has the compiled steps guarded, before the first of them.

        Raises:
            InvalidArgumentError: Another callback guards them.
        """
        if self.guard is not None:
            raise InvalidArgumentError(
                "callbacks", guard, "the steps have a guard already; leave one of them out"
            )
        self.guard = guard

    def check_logs(self, check: Callable[[frozenset[str]], object]) -> None:
        """Calls a check, before the first step, with the names that logs will have."""
        self._checks.append(check)

    def claim(self, hyperparameter: str, owner: str) -> None:
        """Says that a callback sets a hyperparameter of the optimizer.

        Args:
            hyperparameter: Its name, such as `"learning_rate"`.
            owner: The callback's name.

        Raises:
            InvalidArgumentError: Another callback does. Before the first step: a schedule in the
                optimizer does, or the optimizer has none of that name.
        """
        if hyperparameter in self._owners:
            raise InvalidArgumentError(
                "callbacks",
                owner,
                f"{self._owners[hyperparameter]} sets {hyperparameter!r} already, and they would"
                " overwrite each other; leave one of them out",
            )
        self._owners[hyperparameter] = owner

    def owner(self, hyperparameter: str) -> str:
        """The callback that sets a hyperparameter; an empty text if none does."""
        return self._owners.get(hyperparameter, "")

    def ask_at(self, step: int, source: str, ask: Ask) -> None:
        """Asks for a control exactly before an update, without holding training anywhere else.

        For a waiting hook of `TrainBegin`, or a later one: steps go on running ahead until then,
        where a waiting hook of every batch would make each of them exact. A rejected control fails
        the run.

        Args:
            step: Completed updates at the boundary; one that is past means the next boundary.
            source: Who sends the control.
            ask: Called in the training thread with the completed updates. Returns a control that
                acts there, or None; and the step at which to be asked again, or None.
        """
        self._plans += 1
        heapq.heappush(self.planned, (step, self._plans, source, ask))

    def due(self, step: int) -> Iterator[tuple[Control, str]]:
        """The controls that were planned for a step, with their sources."""
        while self.planned and self.planned[0][0] <= step:
            _, _, source, ask = heapq.heappop(self.planned)
            control, again = ask(step)
            if again is not None:
                self.ask_at(max(again, step + 1), source, ask)
            if control is not None:
                yield control, source

    def check_names(self, names: Iterable[str]) -> None:
        """Makes the checks, with the names of the logs."""
        known = frozenset(names)
        for check in self._checks:
            check(known)

    def check_owners(self, opt_state: Any) -> None:
        """Refuses owners of what the optimizer doesn't have, or sets itself."""
        by_schedule = scheduled(opt_state)
        known = hyperparameters(opt_state)
        for name, owner in self._owners.items():
            if name in by_schedule:
                raise InvalidArgumentError(
                    "callbacks",
                    owner,
                    f"the optimizer's own schedule sets {name!r} already; build the optimizer with"
                    f" a number, or leave {owner} out",
                )
            if name not in known:
                raise InvalidArgumentError(
                    "callbacks",
                    owner,
                    f"the optimizer keeps no {name!r} in its state that it could set (it has"
                    f" {sorted(known)}); {getattr(opt_state, 'remedy', _REMEDY)}",
                )

    def began_before(self, epoch: int) -> bool:
        """Whether an epoch is gone on with: what was done at its beginning is in the backup."""
        resumed = self.went_back or self.resumed
        return (
            resumed is not None and resumed.epoch == epoch and (resumed.began or resumed.batch > 0)
        )

    def restored(self) -> Restored | None:
        """What was found to go on with."""
        for restore in self.restorers:
            found = restore()
            if found is not None:
                return found
        return None

    def marks(self) -> Mapping[str, Any]:
        """What puts the data back to the place at this boundary; empty if nobody will ask."""
        return {} if self.data is None else self.data()

    def callback_states(self) -> list[tuple[str, dict[str, Any]]]:
        """What the run's callbacks remember, in order, each under its name.

        Those whose hooks run beside training are asked as they are at that moment.
        """
        return [(name, callback.state_dict()) for name, callback in self.callbacks]

    def pending_writes(self) -> list[Callable[[float], bool]]:
        """What a backup waits for before it counts: files that callbacks haven't written yet."""
        asked = (getattr(callback, "pending_writes", None) for _, callback in self.callbacks)
        found = (ask() for ask in asked if ask is not None)
        return [wait for wait in found if wait is not None]

    def load_callback_states(self, states: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Gives each callback its own back: the n-th of a name gets the n-th of it.

        Warns of those that get none though they remember something, and of states left over.
        """
        left: dict[str, list[Mapping[str, Any]]] = {}
        for name, state in states:
            left.setdefault(name, []).append(state)
        anew: Counter[str] = Counter()
        for name, callback in self.callbacks:
            if found := left.get(name):
                if not (state := found.pop(0)):
                    continue
                try:
                    callback.load_state_dict(state)
                except Exception as error:
                    error.add_note(f"{name} couldn't take back what a backup has of it")
                    raise
            elif callback.state_dict():
                anew[name] += 1
        unused = Counter({name: len(rest) for name, rest in left.items() if any(rest)})
        if anew or unused:
            warnings.warn(
                "the callbacks aren't those of the backup:"
                + (f" {_counted(anew)} begin anew" if anew else "")
                + (" and" if anew and unused else "")
                + (f" {_counted(unused)} of the backup have no callback now" if unused else ""),
                RuntimeWarning,
                stacklevel=2,
            )


_REMEDY = (  # unless the optimizer's state has one of its own
    "give Supervised the factory, `optimizer=optax.adam, learning_rate=1e-3`, or build it with"
    " `optax.inject_hyperparams`"
)


def _counted(names: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(names.items()))
