"""Real servers for tests: from Docker where it answers, otherwise processes on free loopback ports.

    with start("redis") as server:
        ...  # server.url

This package uses nothing of the rest of idemstore.
"""

from idemstore.testing.servers.catalog import NAMES, describe, required, start
from idemstore.testing.servers.server import Member, Server, ServerFailed, ServerUnavailable

__all__ = ["NAMES", "Member", "Server", "ServerFailed", "ServerUnavailable", "describe", "required", "start"]
