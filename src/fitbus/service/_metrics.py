"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from fitbus.service._launches import Launch

__all__ = ["metrics_of"]

_STATUSES = (
    *("queued", "starting", "pending", "running", "paused", "finishing"),
    *("completed", "stopped", "cancelled", "failed"),
)


def metrics_of(launches: Mapping[str, Launch]) -> tuple[bytes, str]:
    """The runs at this moment, in Prometheus' text format; and its media type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Of(launches))
    return generate_latest(registry), CONTENT_TYPE_LATEST


@final
class _Of(Collector):
    def __init__(self, launches: Mapping[str, Launch]) -> None:
        self._launches = launches

    def collect(self) -> Iterator[Any]:
        """The families."""
        runs = GaugeMetricFamily("fitbus_runs", "Runs by status", labels=["status"])
        steps = CounterMetricFamily("fitbus_steps", "Completed updates", labels=["run"])
        seconds = CounterMetricFamily("fitbus_run_seconds", "Wall-clock time", labels=["run"])
        clients = GaugeMetricFamily("fitbus_streams", "Open event streams", labels=["run"])
        labels = ["run", "subscriber"]
        got = CounterMetricFamily("fitbus_delivered", "Events delivered", labels=labels)
        lost = CounterMetricFamily("fitbus_dropped", "Events dropped", labels=labels)
        logs = GaugeMetricFamily("fitbus_log", "The last epoch's logs", labels=["run", "name"])
        launches = list(self._launches.values())
        for status in _STATUSES:
            runs.add_metric([status], sum(each.status == status for each in launches))
        for launch in launches:
            if launch.run is None:
                continue
            counters = launch.run.statistics()
            steps.add_metric([launch.id], counters.step)
            seconds.add_metric([launch.id], counters.seconds)
            clients.add_metric([launch.id], 0 if launch.hub is None else launch.hub.clients)
            for each in counters.subscriptions:
                got.add_metric([launch.id, each.name], each.delivered)
                lost.add_metric([launch.id, each.name], each.dropped)
            record = launch.run.driver.record
            for name, values in ({} if record is None else dict(record.history)).items():
                if values and isinstance(values[-1], int | float):
                    logs.add_metric([launch.id, name], values[-1])
        yield from (runs, steps, seconds, clients, got, lost, logs)
