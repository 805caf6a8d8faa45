"""Runs in a web service: started, watched and steered over HTTP. Needs the extra `service`."""

from fitbus.service._app import app
from fitbus.service._rights import Access, Authorize
from fitbus.train import Training

__all__ = ["Access", "Authorize", "Training", "app"]
