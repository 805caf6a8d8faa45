"""The live handle of a run that trains in a child process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, final

from fitbus._history import History
from fitbus._lists import flattened
from fitbus._loops import run_in_daemon_thread
from fitbus._stand_ins import attach
from fitbus.bus import Bus, LiveRun, RunStatistics, RunStatus
from fitbus.control import Control
from fitbus.errors import ElsewhereError, InvalidArgumentError
from fitbus.events import Codec, EndReason, Event
from fitbus.process._block import ProcessBlock
from fitbus.process._factory import name_of_factory, pickled
from fitbus.process._snapshot import Snapshot, read_and_removed
from fitbus.process._views import DriverView, ModelOf, PreparationView

if TYPE_CHECKING:
    from fitbus.bus import Publisher
    from fitbus.train import Training

__all__ = ["ProcessRun"]


@final
class ProcessRun(LiveRun[History]):
    """A run that trains in a child process, behind the same handle as `Run`.

    So the interpreter's lock, tracing, compilation and a crash of the training stay away from this
    process, which imports no JAX for it. Handlers, streams, waiting, back-pressure and controls
    work as with a `Run`:

        def digits(epochs: int) -> Training:            # at the top of a module
            ...
            return fitbus.train.Training(trainer, x, y, epochs=epochs)

        async with fitbus.ProcessRun(digits, 5) as run:
            await run.send(SetLearningRate(1e-4))
            history = await run.wait()

    It is pending until its block is entered; the child then takes a second or two to import JAX.
    Leaving the block normally waits for it; leaving it by an exception cancels it: the child stops
    at a step boundary, and is ended by force when `grace_s` is over. If this process is killed, the
    child stops at its next boundary, resumably, and is gone after `grace_s`.

    What differs from a `Run`: `UpdateState` is rejected; callbacks that need the model's state
    belong into the options of the `Training`, and run in the child (here: `ElsewhereError`);
    `snapshot` gives a `Snapshot`, NumPy arrays by path; a receipt's `id` is the run's own number
    once it is settled; waiting handlers of what isn't part of training itself (`ControlApplied`, an
    event of one's own) don't hold the child, so that where a control acts that they return may
    differ from run to run; names that a hook removes from logs stay in them.

    What the child writes to stderr appears on this process'; its stdout is this one's.

    Args:
        factory: A function that returns a `Training`, at the top of a module that the child can
            import; or its name, `"module:function"`. It runs in the child.
        args: For the factory; pickled on the way there. Nothing comes back that way.
        parameters: The same by name.
        callbacks: Handlers and `Callback` objects that run here, nested lists allowed.
        bus: The bus for its events; one of its own unless given.
        run_id: Its id; a number of the bus unless given.
        grace_s: Seconds that the child gets to end after a cancellation.
        drain_s: Seconds that subscribers get to finish after the last event.
        user_types: Your own types of events and controls that cross.
        env: Environment variables of the child, beside those of this process.
        keep_state: Whether the last state is kept for `snapshot` after the end.

    Attributes:
        params: What Keras gives callbacks as `params`: verbose, epochs and steps.
        preparation: What callbacks settle with it before its first step.
        open_logs: Whether a callback may add names to the logs of an epoch; set by callbacks.
        driver: The little that callbacks ask of what drives a run.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind.
    """

    def __init__(
        self,
        factory: Callable[..., Training] | str,
        *args: Any,
        parameters: Mapping[str, Any] | None = None,
        callbacks: Iterable[Any] | None = None,
        bus: Bus | None = None,
        run_id: str | None = None,
        grace_s: float = 5.0,
        drain_s: float = 30.0,
        user_types: Sequence[type[Event | Control]] = (),
        env: Mapping[str, str] | None = None,
        keep_state: bool = True,
    ) -> None:
        name = name_of_factory(factory)
        _check_seconds("grace_s", grace_s, least=1e-3)
        _check_seconds("drain_s", drain_s, least=0.0)
        if run_id is not None and (not isinstance(run_id, str) or not run_id):
            raise InvalidArgumentError("run_id", run_id, "give a text")
        bus = Bus() if bus is None else bus
        if run_id is not None and bus.runs.get(run_id) is not None:
            raise InvalidArgumentError(
                "run_id", run_id, "a run of this id is live on the bus; choose another"
            )
        super().__init__(bus.runs.new_id("fit") if run_id is None else run_id, bus)
        self._block = ProcessBlock(
            self,
            name,
            pickled(args, dict(parameters or {}), tuple(user_types)),
            Codec(*user_types),
            env=dict(env or {}),
            keeps_state=keep_state,
            grace_s=grace_s,
            drain_s=drain_s,
        )
        self.driver = DriverView(self, grace_s)
        self.preparation = PreparationView()
        self.open_logs = False
        self._model = ModelOf(self, self._rates_here)
        self._attach_all(callbacks)

    async def __aenter__(self) -> Self:
        """Starts the child process; returns before that has imported JAX.

        Raises:
            FitbusError: It was started before.
            InvalidArgumentError: A live run has its id.
            OSError: The process can't be started.
        """
        await self._block.start()
        return self

    @property
    def publisher(self) -> Publisher | None:
        """Its end of the bus; None before the start."""
        return self._block.publisher

    @property
    def block(self) -> ProcessBlock:
        """Where it lives."""
        return self._block

    @property
    def status(self) -> RunStatus:
        """Where it stands; the last four of `RunStatus` are final."""
        status, relay = self._block.life.status, self._block.relay
        if status == "running" and relay is not None:
            ending = relay.end is not None or relay.ended is not None
            return "finishing" if ending else "paused" if relay.is_paused else "running"
        return status

    @property
    def pid(self) -> int | None:
        """The id of the child process; None before the start."""
        return None if self._block.spawned is None else self._block.spawned.pid

    def statistics(self) -> RunStatistics:
        """Its counters, as the child told them last: a tenth of a second ago at most, if it could.

        `subscriptions` are those here, at this moment. Any thread; never waits.
        """
        relay, read = self._block.relay, self.subscribers()
        told = None if relay is None else relay.told
        if told is None:
            return RunStatistics(0.0, 0, 0, 0.0, 1, 1, 0.0, read)
        return RunStatistics(
            told.seconds,
            told.step,
            told.examples,
            told.input_s,
            told.steps_in_flight,
            told.steps_per_execution,
            told.step_s,
            read,
        )

    async def snapshot(self) -> Snapshot:
        """The state at a step boundary, through a file; after the end, the last one.

        Raises:
            FitbusError: The child couldn't write it, or there is none: of a run that hasn't begun,
                or whose child died.
        """
        if self._block.life.status == "pending" or self._block.life.final:
            return self._last_state()
        path = await self._block.asking.ask("snapshot")
        return await run_in_daemon_thread(lambda: read_and_removed(path), "fitbus snapshot")

    async def hyperparameters(self) -> dict[str, float]:
        """The optimizer's hyperparameters at a step boundary, such as `"learning_rate"`.

        Raises:
            FitbusError: The run hasn't begun, or the child died.
        """
        relay = self._block.relay
        if self._block.life.final and relay is not None and relay.ended is not None:
            return dict(relay.ended.rates)
        found: dict[str, float] = await self._block.asking.ask("hyperparameters")
        return found

    def model(self, source: str) -> Any:
        """The Keras-shaped view that a callback has as `self.model`, without what needs the state.

        Args:
            source: The name under which its writes count as sent.
        """
        return self._model.view(source)

    @property
    def params(self) -> dict[str, Any]:
        """What Keras gives callbacks as `params`: verbose, epochs and steps."""
        relay = self._block.relay
        began = None if relay is None else relay.began
        epochs, steps = (1, None) if began is None else (began.epochs, began.steps_per_epoch)
        return {"verbose": self.driver.verbose, "epochs": epochs, "steps": steps}

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for and has acted."""
        return self.stop_reason is not None

    @property
    def stop_reason(self) -> str | None:
        """The reason of the first stop that was asked for and has acted; None if there is none."""
        relay = self._block.relay
        return None if relay is None or relay.stop is None else relay.stop.reason

    @property
    def end_reason(self) -> EndReason | None:
        """Why it ends, known when `TrainEnd` is delivered; None before."""
        relay = self._block.relay
        return None if relay is None or relay.end is None else relay.end.reason

    def _last_state(self) -> Snapshot:
        if self._block.state is None:
            raise ElsewhereError(f"the state of {self!r}")
        return self._block.state

    def _rates_here(self) -> dict[str, float]:
        relay = self._block.relay
        assert relay is not None
        found: dict[str, float] = self._block.asking.ask_here("hyperparameters", relay.pump_on)
        return found

    def _attach_all(self, callbacks: Iterable[Any] | None) -> None:
        before = self.bus.subscriptions
        try:
            for callback in flattened(callbacks):
                attach(self, "callbacks", callback)
        except BaseException:
            for subscription in self.bus.subscriptions:
                if subscription.run == self.id and subscription not in before:
                    subscription.cancel()  # nobody will ever start the run
            raise


def _check_seconds(argument: str, value: object, *, least: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        raise InvalidArgumentError(argument, value, "give seconds, a number above 0")
