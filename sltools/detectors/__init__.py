"""How a client notices that the server trains it for something else: one argument of the client.

    Client(front, detector=SplitGuard())         # sends probes: batches with false labels
    Client(front, detector=Scrutinizer())        # compares the gradients of a batch, two by two
    Client(front, detector=LabelGap())           # the same, in one number
    Client(front, detector=SplitOut(net, mine))  # has seen what honest gradients look like

An honest-but-curious server sends what an honest one sends, so no detector can notice it.
"""

from sltools.detectors.detector import Detector
from sltools.detectors.scrutinizer import LabelGap, Scrutinizer
from sltools.detectors.splitguard import SplitGuard
from sltools.detectors.splitout import SplitOut

__all__ = ["Detector", "LabelGap", "Scrutinizer", "SplitGuard", "SplitOut"]
