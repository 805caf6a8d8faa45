"""For tests of your own: a recorder of events, a toy problem, and controllable fakes."""

from fitbus.testing._gate import Gate
from fitbus.testing._recorder import EventRecorder
from fitbus.testing._toy import ToyProblem, toy_problem

__all__ = ["EventRecorder", "Gate", "ToyProblem", "toy_problem"]
