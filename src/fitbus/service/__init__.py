"""Runs in a web service: started, watched and steered over HTTP. Needs the extra `service`."""

from fitbus.service._app import app, close_streams
from fitbus.service._rights import LOOPBACK, Access, Authorize
from fitbus.train import Training

__all__ = ["LOOPBACK", "Access", "Authorize", "Training", "app", "close_streams"]
