"""What an audit says in plain sentences, each with the number that it rests on.

A verdict is never "safe": it says how far these attacks got, with this effort.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sltools.audit.attackers import LEVELS
from sltools.audit.findings import Finding, Guesses, Share, spread, typical

RECOVERED, PARTLY = 0.5, 0.9  # of the error of the best guess
ABOVE_CHANCE = 2  # times the chance, that originals must be told apart at least
TINY = 1e-12
NEARLY = 0.05  # of accuracy, that a working copy may lack


class Verdict(NamedTuple):
    """A question, and the sentences that answer it."""

    question: str
    answer: str


def verdicts(findings: Sequence[Finding], guesses: Guesses) -> list[Verdict]:
    """Answer what becomes of the inputs, of the labels, and of the client's network."""
    said = [
        Verdict("Do the inputs come back?", _inputs(findings, guesses)),
        Verdict("Is there a working copy of the client?", _copy(findings, guesses)),
        Verdict("What do the activations tell of the labels?", _labels(findings, guesses)),
    ]
    warning = _untaught(guesses)
    return [Verdict("Is this a network worth an audit?", warning), *said] if warning else said


def gain(finding: Finding, guesses: Guesses) -> float | None:
    """The error of the reconstructions, divided by that of the best guess without an attack."""
    error, best = typical(finding), guesses.best_image
    return None if error is None or best is None else error / max(best[1], TINY)


def word(finding: Finding, guesses: Guesses) -> str:
    """What an attacker gets of the inputs: "recovered", "in part", or "no better" than a guess.

    In part is also what is far from the originals and yet tells them apart.
    """
    ratio, middle = gain(finding, guesses), finding.middle
    if ratio is None or middle is None:
        return "not scored"
    if ratio <= RECOVERED:
        return "recovered"
    told = middle.identified
    blind = guesses.identified.value if guesses.identified else 0.0
    apart = told is not None and told.interval[0] > max(blind, ABOVE_CHANCE / told.of)
    return "in part" if ratio <= PARTLY or apart else "no better"


def _untaught(guesses: Guesses) -> str:
    """Say so if the network has not learned its task; "" if it has, or if nobody can tell."""
    if guesses.victim is None or guesses.majority is None:
        return ""
    if guesses.victim.interval[0] > guesses.majority.value:
        return ""
    return (
        f"Hardly: it is right for {guesses.victim} of held-out samples, which could be chance: the "
        f"most frequent class is {guesses.majority} of what was sent. A network that has learned "
        "nothing keeps other things of its inputs than one in use: give more samples, or weights."
    )


def _inputs(findings: Sequence[Finding], guesses: Guesses) -> str:
    scored = [finding for finding in findings if gain(finding, guesses) is not None]
    if not scored:
        if guesses.best_image is None and any(f.runs and not _grouped(f) for f in findings):
            return (
                "Cannot be said: the true inputs were not given, so the reconstructions, which are "
                "on this page, cannot be scored."
            )
        return "Cannot be said: no attack on the inputs was tried; see below why."
    scored.sort(key=lambda finding: (LEVELS.index(finding.level), gain(finding, guesses)))
    best = min(scored, key=lambda finding: gain(finding, guesses) or 0.0)
    partly = [finding for finding in scored if word(finding, guesses) == "in part"]
    first = next((f for f in scored if word(f, guesses) == "recovered"), None)
    if first is None:
        if partly:
            said = f"in part, by {_who(partly[0])}, {_error(partly[0], guesses)}"
        else:
            said = f"not: closest came {_who(best)}, {_error(best, guesses)}"
        return f"With this effort, {said}. Stronger attacks than these may get further."
    text = f"Yes: {_who(first)} is enough, {_error(first, guesses)}."
    if best is not first:
        text += f" Best of all was {_who(best)}, with {typical(best):.2g}."
    return text


def _grouped(finding: Finding) -> bool:
    """Whether an attack makes groups, and no images."""
    return finding.middle is not None and finding.middle.groups is not None


def _who(finding: Finding) -> str:
    runs = f", median of {len(finding.runs)} runs" if len(finding.runs) > 1 else ""
    return f"an attacker who {finding.level} ({finding.attacker}{runs})"


def _error(finding: Finding, guesses: Guesses) -> str:
    error, middle, best = typical(finding), finding.middle, guesses.best_image
    assert error is not None and middle is not None and best is not None
    ends = spread(finding)
    between = f", from {ends[0]:.2g} to {ends[1]:.2g}" if ends and len(finding.runs) > 1 else ""
    blind = guesses.identified.right if guesses.identified else 0
    told = (
        f"; {middle.closer} are closer to the truth than that guess, and {middle.identified} are "
        f"most like their own original ({blind} of that guess)"
        if middle.closer and middle.identified
        else ""
    )
    return (
        f"with a mean squared error of {error:.2g}{between}, where the best guess without an "
        f"attack ({best[0]}) has {best[1]:.2g}{told}"
    )


def _copy(findings: Sequence[Finding], guesses: Guesses) -> str:
    copies = [f for f in findings if f.middle is not None and f.middle.agreement is not None]
    if not copies:
        return (
            "Cannot be said: no attack that makes a copy was tried, for the reasons below, or "
            "there is nothing to score a copy with: the rest of the network and held-out samples."
        )
    best = max(copies, key=lambda f: f.middle.agreement.value)  # type: ignore[union-attr]
    middle = best.middle
    assert middle is not None and middle.agreement is not None
    rival = guesses.best_rival
    numbers = f"in {middle.agreement} of held-out samples it gives the victim's class"
    if middle.accuracy and guesses.victim:
        numbers += f"; it is right for {middle.accuracy}, the victim for {guesses.victim}"
    beside = f". The best without an attack, {rival[0]}, has {rival[2]}" if rival else ""
    beaten = rival is None or rival[2] is None or middle.agreement.interval[0] > rival[2].value
    whole = not (middle.accuracy and guesses.victim) or _nearly(middle.accuracy, guesses.victim)
    if whole and beaten and middle.agreement.value >= 1 - 2 * NEARLY:
        return f"Yes: {_who(best)} has one; {numbers}{beside}."
    if not beaten:
        return (
            f"None that is clearly better than without an attack: the best has {_who(best)}; "
            f"{numbers}{beside}."
        )
    return f"With this effort, in part at most: the best has {_who(best)}; {numbers}{beside}."


def _nearly(copy: Share, victim: Share) -> bool:
    return copy.value >= victim.value - NEARLY


def _labels(findings: Sequence[Finding], guesses: Guesses) -> str:
    if guesses.majority is None:
        return "Cannot be said: no labels were given."
    parts = []
    if guesses.victim is not None and not _untaught(guesses):
        parts.append(
            f"The server's own part is right for {guesses.victim} of held-out samples: that is its "
            "work, so who runs it has as many of the labels."
        )
    for finding in findings:
        if finding.middle is not None and finding.middle.groups is not None:
            parts.append(
                f"Somebody who only listens and makes groups of the activations has "
                f"{finding.middle.groups} in a group of their class, under the best names; groups "
                f"dealt out at random have {guesses.shuffled:.0%}, and the most frequent class is "
                f"{guesses.majority}."
            )
    return " ".join(parts) or "No attack on labels could be tried; see below why."
