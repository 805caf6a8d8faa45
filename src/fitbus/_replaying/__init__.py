"""Handlers and callbacks run over what a run once told, without training."""

from fitbus._replaying._replay import replay, replay_sync
from fitbus._replaying._results import Replay, Sent

__all__ = ["Replay", "Sent", "replay", "replay_sync"]
