"""What an audit says in plain sentences, each with the number that it rests on.

A verdict is never "safe": it says how far these attacks got, with this effort.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sltools.audit.attackers import GROUPS, LEVELS
from sltools.audit.findings import Finding, Guesses, Scores, Share, spread, typical
from sltools.audit.system import System

RECOVERED, PARTLY = 0.5, 0.9  # of the error of the best guess
ABOVE_CHANCE = 2  # times the chance, that originals must be told apart at least
MORE_STRUCTURE = 0.1  # of SSIM, than the guess has
TINY = 1e-12
NEARLY = 0.05  # of accuracy, that a working copy may lack


class Verdict(NamedTuple):
    """A question, and the sentences that answer it."""

    question: str
    answer: str


class Setting(NamedTuple):
    """What a system is, as far as the words for its scores depend on it.

    `scored_on` names the samples that copies are scored on, `server` what stands for the server's
    part, and `is_free` says that the client has no parameters to be stolen.
    """

    scored_on: str = "held-out samples"
    server: str = "the server's own part"
    is_free: bool = False

    @classmethod
    def of(cls, system: System) -> "Setting":
        """That of a system: which of its parts were trained here, and so not on these samples."""
        known, setting = system.is_held_out, cls(is_free=system.is_weightless)
        if not known:
            setting = setting._replace(scored_on="samples that the client may have learned from")
        if system.taught_here == ("rest",):
            setting = setting._replace(server="a part that was trained here in the server's place")
        return setting


USUAL = Setting()


def verdicts(
    findings: Sequence[Finding], guesses: Guesses, setting: Setting = USUAL
) -> list[Verdict]:
    """Answer what becomes of the inputs, of the labels, and of the client's network."""
    said = [
        Verdict("Do the inputs come back?", _inputs(findings, guesses)),
        Verdict("Is there a working copy of the client?", _copy(findings, guesses, setting)),
        Verdict("What do the activations tell of the labels?", _labels(findings, guesses, setting)),
    ]
    warning = _untaught(guesses, setting)
    return [Verdict("Is this a network worth an audit?", warning), *said] if warning else said


def gain(finding: Finding, guesses: Guesses) -> float | None:
    """The error of the reconstructions, divided by that of the best guess without an attack."""
    error, best = typical(finding), guesses.best_image
    return None if error is None or best is None else error / max(best[1], TINY)


def word(finding: Finding, guesses: Guesses) -> str:
    """What an attacker gets of the inputs: "recovered", "in part", or "no better" than a guess.

    The error counts as it is printed, in two digits. In part is also what is far from the originals
    and yet shows them, see `shown`.
    """
    ratio = gain(finding, guesses)
    if ratio is None:
        return "not scored"
    if _printed(ratio) <= RECOVERED:
        return "recovered"
    return "in part" if _printed(ratio) <= PARTLY or shown(finding, guesses) else "no better"


def _printed(ratio: float) -> float:
    return float(f"{ratio:.2g}")


def shown(finding: Finding, guesses: Guesses) -> str:
    """What reconstructions show of the originals that the best guess does not, or "".

    That they are told apart, or that their shapes are there, though perhaps not their colours.
    """
    middle = finding.middle
    if middle is None:
        return ""
    found = []
    if _is_apart(middle, guesses):
        found.append(f"{middle.identified} are most like their own original")
    if _is_shaped(middle, guesses):
        found.append(
            f"the shapes of {middle.shaped} are clearer than in that guess (SSIM of grey images, "
            f"contrast set right: {middle.structure:.2f}, where it has {guesses.structure:.2f})"
        )
    return ", and ".join(found)


def _is_apart(scores: Scores, guesses: Guesses) -> bool:
    told = scores.identified
    blind = guesses.identified.value if guesses.identified else 0.0
    return told is not None and told.interval[0] > max(blind, ABOVE_CHANCE / told.of)


def _is_shaped(scores: Scores, guesses: Guesses) -> bool:
    if scores.structure is None or scores.shaped is None or guesses.structure is None:
        return False
    more = scores.structure - guesses.structure
    return more >= MORE_STRUCTURE and scores.shaped.interval[0] > 0.5


def _untaught(guesses: Guesses, setting: Setting) -> str:
    """Say so if the network has not learned its task; "" if it has, or if nobody can tell."""
    if guesses.victim is None or guesses.majority is None:
        return ""
    if guesses.victim.interval[0] > guesses.majority.value:
        return ""
    return (
        f"Hardly: it is right for {guesses.victim} of {setting.scored_on}, which could be chance: "
        f"the most frequent class is {guesses.majority} of what was sent. A network that learned "
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
    weaker = [f for f in findings if LEVELS.index(f.level) < LEVELS.index(first.level)]
    if some := [finding for finding in weaker if finding in partly]:
        text += f" In part it takes less: {_who(some[0])}, {_error(some[0], guesses)}."
    if untried := [f.attacker for f in weaker if not f.runs and f.attacker != GROUPS]:
        text += f" Of weaker attackers, {', '.join(untried)} could not be tried; see below why."
    return text


def _grouped(finding: Finding) -> bool:
    """Whether an attack makes groups, and no images."""
    return finding.middle is not None and finding.middle.groups is not None


def _who(finding: Finding) -> str:
    runs = f", median of {len(finding.runs)} runs" if len(finding.runs) > 1 else ""
    return f"an attacker who {finding.level} ({finding.attacker}{runs})"


def _error(finding: Finding, guesses: Guesses) -> str:
    error, ratio, best = typical(finding), gain(finding, guesses), guesses.best_image
    assert error is not None and ratio is not None and best is not None
    ends = spread(finding)
    between = f", from {ends[0]:.2g} to {ends[1]:.2g}" if ends and len(finding.runs) > 1 else ""
    if (kept := finding.kept) and kept.raw_mse is not None:
        between += f" ({kept.raw_mse:.2g} in the run of least objective, which one would keep)"
    text = (
        f"with a mean squared error of {error:.2g}{between}, where the best guess without an "
        f"attack ({best[0]}) has {best[1]:.2g}"
    )
    reason = shown(finding, guesses)
    if reason and _printed(ratio) > PARTLY:
        return f"{text}: the error alone says no more than a guess, and yet {reason}"
    return text + _told_apart(finding, guesses)


def _told_apart(finding: Finding, guesses: Guesses) -> str:
    middle = finding.middle
    if middle is None or not middle.closer or not middle.identified:
        return ""
    blind = guesses.identified.right if guesses.identified else 0
    return (
        f"; {middle.closer} are closer to the truth than that guess, and {middle.identified} are "
        f"most like their own original ({blind} of that guess)"
    )


def _copy(findings: Sequence[Finding], guesses: Guesses, setting: Setting) -> str:
    if setting.is_free:
        return (
            "It costs nothing: the client has no parameters, so whoever knows its architecture has "
            "it."
        )
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
    numbers = f"in {middle.agreement} of {setting.scored_on} it gives the victim's class"
    if middle.accuracy and guesses.victim:
        numbers += f"; it is right for {middle.accuracy}, the victim for {guesses.victim}"
    beside = (
        f". The best without an attack, {rival[0]}, gives the victim's class in {rival[2]}"
        if rival
        else ""
    )
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


def _labels(findings: Sequence[Finding], guesses: Guesses, setting: Setting) -> str:
    if guesses.majority is None:
        return "Cannot be said: no labels were given."
    parts = []
    if guesses.victim is not None and not _untaught(guesses, setting):
        parts.append(
            f"{setting.server[0].upper()}{setting.server[1:]} is right for {guesses.victim} of "
            f"{setting.scored_on}: that is its work, so who runs it has as many of the labels."
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
