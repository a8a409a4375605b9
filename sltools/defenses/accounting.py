"""What noise is worth in the currency of differential privacy."""

import warnings

from sltools.errors import DefenseError
from sltools.validation import defense_check


def epsilon(multiplier: float, releases: int, delta: float = 1e-5, rate: float = 1.0) -> float:
    """Return epsilon after `releases` of the Gaussian mechanism, by opacus' RDP accountant.

    The noise is `multiplier` times the sensitivity; each release uses a sample with probability
    `rate`, in secret. Raises DefenseError for senseless numbers and if opacus is not installed.

    >>> from sltools.defenses.accounting import epsilon
    >>> f"{epsilon(multiplier=1.0, releases=1):.1f}, {epsilon(multiplier=2.0, releases=1):.1f}"
    '4.7, 2.2'
    >>> f"{epsilon(multiplier=1.0, releases=100, rate=0.01):.1f}"  # batches drawn at random
    '1.2'
    """
    try:
        from opacus.accountants import RDPAccountant
    except ImportError:
        raise DefenseError("accounting needs opacus: pip install opacus") from None
    defense_check.positive("multiplier", multiplier)
    if defense_check.positive("delta", delta) >= 1 or defense_check.positive("rate", rate) > 1:
        raise DefenseError(f"delta is below 1 and rate at most 1, not {delta} and {rate}")
    if defense_check.positive("releases", releases) != int(releases):
        raise DefenseError(f"releases must be a whole number, not {releases!r}")
    accountant = RDPAccountant()
    accountant.history = [(multiplier, rate, releases)]
    with warnings.catch_warnings():
        # Of hardly any noise it says that finer orders would give a tighter bound, hardly any too.
        warnings.filterwarnings("ignore", message="Optimal order")
        return float(accountant.get_epsilon(delta))
