# ---
# jupyter:
#   sltools:
#     minutes: 10
# ---

# %% [markdown]
# # Before the first pooling: no search at all
#
# [Lesson 05](../05_how_deep.ipynb) attacks every stage of the client by a search that starts
# somewhere and may end nowhere. At the very first stage none is needed: there the images and the
# weights are the solution of a linear problem, and this notebook solves it.
#
# **Threat card.** As in lesson 05: an honest-but-curious server that sees the smashed data, knows
# the client's architecture, and has neither weights nor images of its own.
#
# **Time.** About 10 minutes (estimated).

# %% [markdown]
# ## Settings

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist, fashion_mnist, cifar10
budget: str = "quick"  # one of: tiny, quick, full
seed: int = 0  # changes victim and data order together, each from a stream of its own
device: str = "cpu"  # one of: cpu, cuda

# %%
import csv
import json

import numpy as np

from sltools import data, experiments, lessons, metrics, plots, protocol
from sltools.attacks import BlindDeconvolution
from sltools.claims import Claims, compare
from sltools.errors import AttackError

as_shown = (dataset, budget, seed) == ("digits", "quick", 0)
claim = Claims(as_shown)
of_record = Claims(as_shown=True)  # what was recorded is the same with any settings

source = data.load(dataset)
session = experiments.train_victim(source, "conv2", budget=budget, seed=seed, device=device)
private = experiments.first_targets(source, 10).to(device)  # one of each class
images, names = private.images, [source.classes[label] for label in private.labels]

# %% [markdown]
# ## An equation that neighbours share
#
# At conv1 nothing has been thrown away yet: a convolution is **linear** (up to a constant).
#
# Take a small window of the smashed data, 3 × 3 places. In the network for digits it holds
# $8 \cdot 9 = 72$ numbers, and below it lie $7 \cdot 7 = 49$ pixels. There are more numbers than
# pixels, so unless the filters are special, each pixel $k$ is a linear function of the window $v$,
# $x_k = m_k^\top v$, and **the same** function wherever the window lies, in every image. The
# attacker does not know the $m_k$. But two windows $v$ and $v'$ that lie side by side see the same
# pixels, as number $k$ and as number $k'$, and must agree on them:
#
# $$\min_m \sum_{\text{neighbours}} \big(m_k^\top v - m_{k'}^\top v'\big)^2$$
#
# over $m$ of a fixed length. That is an eigenvalue problem: no start has to be drawn, no step size
# chosen, no smoothness assumed. Engineers know it as **blind deconvolution**: what a telescope saw
# through moving air, or microphones heard in an unknown room, is recovered in this way. What stays
# open is how bright white is and how dark black is, which we assume as in lesson 04 (`exposure`),
# and with three channels their mixture.

# %% [markdown]
# ## Ten digits
#
# We change nothing for the ReLU: what it has put out is noise to these equations. By what factor,
# do you think, does it raise the error?

# %%
guess_factor = None  # your guess: median error after relu1 / median error after conv1

# %%
solved = {}
for stage in ("conv1", "relu1"):
    try:
        found = BlindDeconvolution()(protocol.recut(session, stage).observe(images))
        solved[f"after {stage}"] = found.inputs
    except AttackError as refusal:
        print(f"after {stage}: {refusal}")
plots.reconstructions(images.cpu(), {place: x.cpu() for place, x in solved.items()}, names)

# %%
errors = {place: metrics.mse(x, images) for place, x in solved.items()}
claim("stages that were solved", len(errors), "==", 2)
if len(errors) == 2:
    usual, rectified = errors.values()
    compare(guess_factor, (rectified.median() / usual.median()).item(), "the ReLU's factor")
    claim("error of every image after conv1", usual, "<", 1e-4)
    claim("error of every image after relu1", rectified, "<", 1e-3)

# %% [markdown]
# ## The victims of the study
#
# Here is what was recorded for the victims and targets of lesson 05's study, beside its search.

# %%
folder = lessons.course() / "results"
algebra = json.loads((folder / "deconvolution.json").read_text(encoding="utf-8"))["runs"]
with (folder / "depth.csv").open(newline="", encoding="utf-8") as file:
    searched = [row for row in csv.DictReader(file) if row["chosen"] == "True"]


def by_search(data_set, stage, field):
    """The median over the attacks of lesson 05's study."""
    there = [r for r in searched if (r["dataset"], r["stage"]) == (data_set, stage)]
    return np.median([float(row[field]) for row in there])


def by_algebra(data_set, stage, field, of=np.median):
    """The median over the victims, or what `of` makes of them."""
    return of([run[field] for run in algebra[data_set][stage]])


# %% tags=["nbval-ignore-output"]
# not compared: the record grows
print(f"{'medians':16}{'raw MSE':>9}{'algebra':>9}{'clone':>9}{'algebra':>9}{'victim':>9}")
for data_set, by_stage in algebra.items():
    for stage in by_stage:
        there = (data_set, stage)
        print(
            f"{data_set:8}{stage:8}{by_search(*there, 'raw_mse'):9.2g}"
            f"{by_algebra(*there, 'raw_mse'):9.2g}{by_search(*there, 'clone_accuracy'):9.1%}"
            f"{by_algebra(*there, 'clone_accuracy'):9.1%}"
            f"{by_algebra(*there, 'victim_accuracy'):9.1%}"
        )

# %%
print("recorded, error by algebra as a share of the search's median error:")
for data_set in algebra:
    worst = by_algebra(data_set, "conv1", "worst_mse", max)
    share = worst / by_search(data_set, "conv1", "raw_mse")
    of_record(f"{data_set}, conv1, the worst image of all", share, "<", 1)
on_digits = by_algebra("digits", "relu1", "raw_mse", max) / by_search("digits", "relu1", "raw_mse")
of_record("digits, relu1, the worst victim", on_digits, "<", 1 / 2)
on_mnist = by_algebra("mnist", "relu1", "raw_mse") / by_search("mnist", "relu1", "raw_mse")
of_record("mnist, relu1, the median", on_mnist, ">", 2)

# %% [markdown]
# After the convolution alone, the images and the network lie open, to seconds of algebra. A ReLU
# does not close the door: it adds an error, small where images are smooth. On MNIST the search,
# which knows of the ReLU, does better.
#
# ## Limitations
#
# The method has limits of its own, and they are not those of the search. It needs stride 1 (so the
# pooling ends it), small filters and enough of them; and it refuses where a wrong solution agrees
# nearly as well as the right one, as on a client for photographs that we tried after its ReLU. So
# **no single attack draws the line of what a cut protects**.
#
# ## Further reading
#
# * E. Moulines et al.: *Subspace Methods for the Blind Identification of Multichannel FIR Filters*,
#   IEEE Transactions on Signal Processing 43 (1995); D. Gesbert, P. Duhamel, S. Mayrargue: *On-Line
#   Blind Multichannel Equalization Based on Mutually Referenced Filters*, the same 45 (1997). Blind
#   deconvolution, and what neighbours must agree on.
# * G. Harikumar, Y. Bresler: *Perfect Blind Restoration of Images Blurred by Multiple Filters*,
#   IEEE Transactions on Image Processing 8 (1999); G. B. Giannakis, R. W. Heath: *Blind
#   Identification of Multichannel FIR Blurs and Perfect Image Restoration*, the same 9 (2000). For
#   images.
#
# **Back:** [lesson 05](../05_how_deep.ipynb), to the stages where something is thrown away.
