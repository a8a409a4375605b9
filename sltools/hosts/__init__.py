"""Split learning between hosts: a server here, clients elsewhere, on `torch.distributed` (gloo).

What crosses is what crosses in one process (`sltools.protocol`): the client's messages and the
server's answers, each checked before memory is taken for it. Nothing is encrypted: see
`docs/hosts.md`.
"""

from sltools.hosts.client import RemoteServer, join
from sltools.hosts.journal import Journal, read_journal
from sltools.hosts.link import Link
from sltools.hosts.server import RemoteClient, Served, serve
from sltools.hosts.tap import Tap

__all__ = [
    "Journal", "Link", "RemoteClient", "RemoteServer", "Served", "Tap", "join", "read_journal",
    "serve",
]  # fmt: skip
