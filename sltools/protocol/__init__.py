"""Split learning between two parties that exchange messages and nothing else.

Vanilla: the client sends z and the labels, the server replies with dL/dz.
Label-private (U-shaped): the client sends z, the server replies with features u, the client's head
returns dL/du, the server replies with dL/dz. The labels stay with the client.
"""

from sltools.protocol.optimizers import MakeOptimizer, adam
from sltools.protocol.parties import Client, ClientOutput, Detector, Server, exchange
from sltools.protocol.rounds import SCHEDULES, Checkpoint, Guard, average, train_clients
from sltools.protocol.session import Session, recut
from sltools.protocol.training import Trainee, data_orders, train

__all__ = [
    "SCHEDULES", "Checkpoint", "Client", "ClientOutput", "Detector", "Guard", "MakeOptimizer",
    "Server", "Session", "Trainee", "adam", "average", "data_orders", "exchange", "recut", "train",
    "train_clients",
]  # fmt: skip
