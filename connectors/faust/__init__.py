"""Faust as the host of a worker: life cycle, supervision, signals, web, edge agents. It owns no table and sees no hot topic."""

from connectors.faust.edges import LogSink, Sink
from connectors.faust.host import HostedFailed, Place, host

__all__ = ["HostedFailed", "LogSink", "Place", "Sink", "host"]
