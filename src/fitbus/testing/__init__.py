"""For tests of your own: a recorder of events, a toy problem, and controllable fakes.

And for what your callbacks cost: `measure_overhead`.
"""

from fitbus.testing._gate import Gate
from fitbus.testing._overhead import measure_overhead
from fitbus.testing._overhead_results import Overhead, Spread, StepOverhead, SubscriberOverhead
from fitbus.testing._recorder import EventRecorder
from fitbus.testing._toy import ToyProblem, toy_problem

__all__ = [
    "EventRecorder",
    "Gate",
    "Overhead",
    "Spread",
    "StepOverhead",
    "SubscriberOverhead",
    "ToyProblem",
    "measure_overhead",
    "toy_problem",
]
