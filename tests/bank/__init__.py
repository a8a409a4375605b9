"""The bank of answers that prove the checks: plausible wrong ones, and right ones in other words.

One module for each topic holds `PROOFS`. `wrong` maps what a learner did to the answer that does
it; `right` are correct answers written differently from the published solution. The instructor's
page is made of the wrong ones.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Proof:
    """The proof of one check: `seeds` are those on which right answers must pass."""

    wrong: dict[str, Any]
    right: list[Any]
    seeds: range = field(default=range(5000, 5050))


def proofs() -> dict[str, Proof]:
    """Return all proofs by the key of their task."""
    from tests.bank import (
        audits,
        auxiliary,
        depth,
        inversion,
        labels,
        leakage,
        malicious,
        poisoning,
        privacy,
        protocol,
        theft,
        threats,
    )

    return {
        **protocol.PROOFS,
        **threats.PROOFS,
        **leakage.PROOFS,
        **inversion.PROOFS,
        **depth.PROOFS,
        **theft.PROOFS,
        **labels.PROOFS,
        **privacy.PROOFS,
        **malicious.PROOFS,
        **auxiliary.PROOFS,
        **poisoning.PROOFS,
        **audits.PROOFS,
    }
