"""Attacks on split learning, for a course: the protocol, both attacks of UnSplit, honest scores.

Data flow: `data` -> `models.cut` -> `protocol.train` -> transcript -> `view` -> `attacks` ->
`metrics`. An attack is given a view of what one party may look at, never the victim.
"""

__version__ = "0.2.0"
