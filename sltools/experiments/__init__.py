"""Experiments of standard size: what the command line and the lessons run.

A budget says how much to spend: "tiny" for tests, "quick" for a lesson on a laptop, "full" for the
paper's scale; "published" is the paper's own schedule, hours of it. Results are medians over
several victims and clones, with the worst beside them. Nothing below this module knows of it.
"""

from sltools.experiments.auxiliary import (
    AuxiliaryData,
    auxiliary_data,
    check_disjoint,
    class_means,
    own_network,
    support_vectors,
)
from sltools.experiments.inversion import InversionSettings, run_inversion
from sltools.experiments.labels import (
    LabelSettings,
    cluster_features,
    head_cut,
    record_epoch,
    run_labels,
)  # fmt: skip
from sltools.experiments.outcome import Outcome
from sltools.experiments.poisoning import Crowd, Turns, train_crowd
from sltools.experiments.presets import BUDGETS, PRIORS, STEPS, priors, training, unsplit
from sltools.experiments.restarts import (
    RestartScores,
    paired_verdict,
    restart_table,
    score_restarts,
)  # fmt: skip
from sltools.experiments.targets import first_targets, public_rows, redrawn, usual_targets
from sltools.experiments.victims import MakeClient, parties, train_victim

__all__ = [
    "BUDGETS", "PRIORS", "STEPS", "AuxiliaryData", "Crowd", "InversionSettings", "LabelSettings",
    "MakeClient", "Outcome", "RestartScores", "Turns", "auxiliary_data", "check_disjoint",
    "class_means", "cluster_features", "first_targets", "head_cut", "own_network", "paired_verdict",
    "parties", "priors", "public_rows", "record_epoch", "redrawn", "restart_table", "run_inversion",
    "run_labels", "score_restarts", "support_vectors", "train_crowd", "train_victim", "training",
    "unsplit", "usual_targets",
]  # fmt: skip
