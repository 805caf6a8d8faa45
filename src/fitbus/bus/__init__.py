"""What carries: the bus, its subscriptions, and the publisher that a training loop holds."""

from fitbus.bus._bus import Bus
from fitbus.bus._handle import RunHandle, RunStatistics, RunStatus
from fitbus.bus._host import Host
from fitbus.bus._life import Block, Life
from fitbus.bus._live_run import LiveRun
from fitbus.bus._options import (
    Handler,
    HandlerOptions,
    Hook,
    OnError,
    Options,
    Overflow,
    handler,
    is_coroutine_function,
)
from fitbus.bus._publisher import Publisher
from fitbus.bus._statistics import (
    BusStatistics,
    DeliveryReport,
    SubscriberReport,
    SubscriptionStatistics,
)
from fitbus.bus._subscription import Subscription
from fitbus.bus._surface import Subscribable
from fitbus.bus._worker import stands_in, stood_for

__all__ = [
    "Block",
    "Bus",
    "BusStatistics",
    "DeliveryReport",
    "Handler",
    "HandlerOptions",
    "Hook",
    "Host",
    "Life",
    "LiveRun",
    "OnError",
    "Options",
    "Overflow",
    "Publisher",
    "RunHandle",
    "RunStatistics",
    "RunStatus",
    "Subscribable",
    "SubscriberReport",
    "Subscription",
    "SubscriptionStatistics",
    "handler",
    "is_coroutine_function",
    "stands_in",
    "stood_for",
]
