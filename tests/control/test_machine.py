"""The inbox and its receipts as a state machine: each control is settled exactly once."""

from __future__ import annotations

import contextlib
import threading

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from fitbus.bus import Bus
from fitbus.control import (
    Applied,
    Control,
    Inbox,
    Outcome,
    Receipt,
    Rejected,
    ScaleLearningRate,
    SetHyperparameter,
    SetLearningRate,
    StopTraining,
    Superseded,
)
from fitbus.errors import ControlRejectedError
from fitbus.events import ControlApplied, ControlRejected
from fitbus.testing import EventRecorder

CONTROLS = st.one_of(
    st.builds(SetLearningRate, st.sampled_from([0.1, 0.2])),
    st.builds(ScaleLearningRate, st.sampled_from([0.5, 2.0])),
    st.builds(SetHyperparameter, st.sampled_from(["learning_rate", "b1"]), st.just(0.3)),
    st.builds(StopTraining, st.sampled_from(["a", "b"])),
)
REFUSED = st.sampled_from(["never", "first", "all"])


class InboxMachine(RuleBasedStateMachine):
    """Against a list of what was sent, and what is to become of it."""

    receipts = Bundle("receipts")

    def __init__(self) -> None:
        super().__init__()
        self.inbox = Inbox()
        self.sent: list[Receipt] = []
        self.waiting: list[Receipt] = []
        self.expected: dict[int, Outcome] = {}
        self.told: dict[int, list[threading.Event]] = {}
        self.boundaries = 0
        self.closed = False

    @rule(target=receipts, control=CONTROLS, source=st.sampled_from(["", "a", "b"]))
    def post(self, control: Control, source: str) -> Receipt:
        receipt = self.inbox.post(control, source)
        assert (receipt.id, receipt.control, receipt.source) == (len(self.sent), control, source)
        self.sent.append(receipt)
        if self.closed:
            self.expected[receipt.id] = Rejected("over")
        else:
            self.waiting.append(receipt)
        return receipt

    @rule(receipt=receipts)
    def wait(self, receipt: Receipt) -> None:
        """Somebody waits in a thread."""
        told = threading.Event()

        def ask() -> None:
            with contextlib.suppress(ControlRejectedError):
                receipt.result(30)
            told.set()

        if receipt.outcome is None:
            thread = threading.Thread(target=ask)
            thread.start()
            self.told.setdefault(receipt.id, []).append(told)

    @rule()
    def boundary(self) -> None:
        taken = self.inbox.take()
        assert [receipt for receipt, _ in taken] == self.waiting
        self.boundaries += 1
        for place, (receipt, winner) in enumerate(taken):
            later = [
                other
                for other in self.waiting[place + 1 :]
                if receipt.control.key is not None and other.control.key == receipt.control.key
            ]
            assert winner is (later[-1] if later else None)
            outcome = Superseded(winner.id) if winner else Applied(self.boundaries, epoch=0)
            assert receipt.settle(outcome)
            self.expected[receipt.id] = outcome
        self.waiting = []

    @rule(receipt=receipts)
    def settle_again(self, receipt: Receipt) -> None:
        if receipt.outcome is not None:
            assert not receipt.settle(Rejected("again"))

    @rule()
    def close(self) -> None:
        back = self.inbox.close("over")
        assert back == self.waiting
        for receipt in back:
            assert receipt.settle(Rejected("over"))
            self.expected[receipt.id] = Rejected("over")
        self.waiting = []
        self.closed = True

    @invariant()
    def each_has_its_outcome_or_waits(self) -> None:
        waiting = {receipt.id for receipt in self.waiting}
        for receipt in self.sent:
            assert receipt.outcome == self.expected.get(receipt.id)
            assert (receipt.outcome is None) == (receipt.id in waiting)
        assert len(self.inbox) == len(self.waiting)
        for control in (StopTraining, SetLearningRate):
            held = any(isinstance(receipt.control, control) for receipt in self.waiting)
            assert self.inbox.holds(control) == held

    @invariant()
    def whoever_waits_for_what_is_settled_is_told(self) -> None:
        for id in self.expected:
            for told in self.told.pop(id, []):
                assert told.wait(30)

    def teardown(self) -> None:
        self.close()
        self.whoever_waits_for_what_is_settled_is_told()


class LoopMachine(RuleBasedStateMachine):
    """The same over a loop by hand, which may reject, leave off, or never look: none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.bus = Bus()
        self.recorder = EventRecorder()
        self.bus.add(self.recorder, ControlApplied, ControlRejected)
        self.publisher = self.bus.publisher()
        self.sent: list[Receipt] = []
        self.closed = False

    @rule(control=CONTROLS)
    def post(self, control: Control) -> None:
        self.sent.append(self.publisher.post(control, "a test"))

    @rule(refused=REFUSED)
    def boundary(self, refused: str) -> None:
        """Goes through all, rejecting some."""
        if self.closed:
            return
        waited = [receipt for receipt in self.sent if receipt.outcome is None]
        for place, _ in enumerate(self.publisher.boundary()):
            if refused == "all" or (refused == "first" and place == 0):
                self.publisher.reject("no")
        self.publisher.step += 1
        assert all(receipt.outcome is not None for receipt in waited)

    @rule(after=st.integers(0, 3), refused=st.booleans())
    def leave_off(self, after: int, refused: bool) -> None:
        """Leaves the loop over the controls early: the last one acted, what it didn't get waits."""
        if self.closed:
            return
        waited = [receipt for receipt in self.sent if receipt.outcome is None]
        got: list[Control] = []
        for control in self.publisher.boundary():
            got.append(control)
            if len(got) > after:
                if refused:
                    self.publisher.reject("no")
                break
        self.publisher.step += 1  # it acted before that
        self.publisher.boundary()
        acted = [r for r in waited if isinstance(r.outcome, Applied | Rejected)]
        assert [receipt.control for receipt in acted] == got
        kinds = [type(receipt.outcome) for receipt in acted]
        assert kinds == [Applied] * len(got) or (
            refused and len(got) > after and kinds == [*[Applied] * after, Rejected]
        )
        waiting = [receipt for receipt in waited if receipt.outcome is None]
        assert len(self.publisher.inbox) == len(waiting)
        assert not waiting or len(got) > after
        assert [r for r in waited if r.id > acted[-1].id and r.outcome is None] == waiting

    @rule()
    def boundary_that_nobody_looks_at(self) -> None:
        if not self.closed:
            self.publisher.boundary()

    @rule()
    def close(self) -> None:
        self.publisher.close("over")
        self.closed = True

    @invariant()
    def each_outcome_is_told_once(self) -> None:
        if not self.closed:
            self.publisher.barrier(ControlApplied(id=-1, control=StopTraining(), source="a mark"))
        told = [e for e in self.recorder.events if getattr(e, "id", -1) >= 0]
        outcomes: dict[int, ControlApplied | ControlRejected] = {}
        for event in told:
            assert isinstance(event, ControlApplied | ControlRejected)
            assert event.id not in outcomes
            outcomes[event.id] = event
        for receipt in self.sent:
            told_of = outcomes.get(receipt.id)
            match receipt.outcome:
                case Applied(step):
                    assert isinstance(told_of, ControlApplied)
                    assert told_of.step == step
                case Superseded(by):
                    assert isinstance(told_of, ControlRejected)
                    assert told_of.why == f"superseded by {by}"
                    assert self.sent[by].control.key == receipt.control.key
                case Rejected(why):
                    if told_of is None:  # after the end, only its sender is told
                        assert why == "over"
                    else:
                        assert isinstance(told_of, ControlRejected)
                        assert told_of.why == why
                case None:
                    assert told_of is None
                    assert not self.closed

    def teardown(self) -> None:
        self.close()
        assert all(receipt.outcome is not None for receipt in self.sent)


TestInboxMachine = InboxMachine.TestCase
TestInboxMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLoopMachine = LoopMachine.TestCase
TestLoopMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
