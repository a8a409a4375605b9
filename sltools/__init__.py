"""Attacks on split learning, for a course: the protocol, both attacks of UnSplit, honest scores.

Data flow: `data` -> `models.cut` -> `protocol.train` -> transcript -> `view` -> `attacks` ->
`metrics`. An attack is given a view of what one party may look at, never the victim.

>>> from sltools import data, metrics, models, protocol
>>> from sltools.attacks import UnSplit
>>> digits = data.load("digits")
>>> front, rest = models.cut(models.mnist_net(), at="pool1")
>>> session = protocol.train(front, rest, digits.train, epochs=1)
>>> secret = digits.test.images[:1]
>>> result = UnSplit(steps=200)(session.observe(secret))
>>> report = metrics.score_inversion(result.inputs, secret, digits.train.images.mean(0))
>>> error = {name: scores.mse.item() for name, scores in report.rows.items()}
>>> error["attack"] < 0.5 * error["mean image"]
True
"""

__version__ = "0.2.0"
