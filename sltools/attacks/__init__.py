"""The attacks. Each is an object made from its settings and called with a view."""

from sltools.attacks.adversarial import SLADV, AdversarialResult
from sltools.attacks.attributes import AttributeInference
from sltools.attacks.curious import CuriousServer
from sltools.attacks.decoder import DecoderInversion
from sltools.attacks.deconvolution import BlindDeconvolution
from sltools.attacks.dullahan import BackdoorResult, Dullahan
from sltools.attacks.fora import FORA
from sltools.attacks.hijacking import Hijacking, HijackingServer
from sltools.attacks.known_weights import KnownWeightsInversion
from sltools.attacks.labels import LabelInference, LabelResult
from sltools.attacks.leaks import GradientLeak, LeakResult
from sltools.attacks.membership import MembershipInference
from sltools.attacks.pcat import PCAT
from sltools.attacks.poisoning import Backdoor, LabelFlip, StealthyClient
from sltools.attacks.result import InversionResult
from sltools.attacks.sdar import SDAR
from sltools.attacks.sfi import SFI, SFIServer
from sltools.attacks.surrogate import SurrogateResult
from sltools.attacks.trigger import Trigger
from sltools.attacks.unsplit import UnSplit

__all__ = [
    "FORA",
    "PCAT",
    "SDAR",
    "SFI",
    "SFIServer",
    "SLADV",
    "AdversarialResult",
    "AttributeInference",
    "Backdoor",
    "BackdoorResult",
    "BlindDeconvolution",
    "CuriousServer",
    "DecoderInversion",
    "Dullahan",
    "GradientLeak",
    "Hijacking",
    "HijackingServer",
    "InversionResult",
    "KnownWeightsInversion",
    "LabelFlip",
    "LabelInference",
    "LabelResult",
    "LeakResult",
    "MembershipInference",
    "StealthyClient",
    "SurrogateResult",
    "Trigger",
    "UnSplit",
]
