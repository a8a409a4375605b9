# ---
# jupyter:
#   sltools:
#     minutes: 55
#     alternative: {cut: pool1}
# ---

# %% [markdown]
# # How deep is deep enough?
#
# After this lesson you can say what a client gains by keeping more layers to itself: for its
# images, for its network, and against which attacker.
#
# **The clinic** has seen its patients' scans come back from an early cut, along with a copy of its
# layers. Its computers could run a few layers more before they send anything to the vendor: how
# many are enough?
#
# **Objectives.** You can
#
# * count, stage by stage, what is sent and what is unknown;
# * read a study of one attack at every cut: median and worst, beside the mean image, known weights,
#   the victim and random clients;
# * test whether an attacker can trust the number by which it chooses among its own results;
# * say why an attack that was cut short makes a cut look safe;
# * say why "the attack fails at this cut" is not "this cut is safe".
#
# **Prerequisites.** [Lesson 03](03_smashed_data.ipynb) (what smashed data show) and
# [lesson 04](04_inversion_and_stealing.ipynb) (the attack *UnSplit*).
#
# **Time.** About 55 minutes (estimated).

# %% [markdown]
# ## Threat card
#
# | | UnSplit against a client with a movable cut |
# |---|---|
# | **who** | an honest-but-curious server |
# | **sees** | the smashed data $z$, and nothing else |
# | **may change** | nothing: it follows the protocol |
# | **wants** | the images that $z$ was made of, and a working copy of the client's layers |
# | **knows before** | the architecture of the client's layers, so also where the cut is |
# | **assumes** | that images are smooth, on black, and so exposed that 1% of pixels are white |
# | **does not need** | the weights, any image of its own, labels, gradients |
# | **simulated here** | both parties in one process; the attack gets the server's view |
# | **stops working** | after dense layers, on photographs earlier: see the study; we ask why |
# | **answered by** | a deeper cut, while weights are secret and the server has no data: we ask |
#
# Beside it stands a second attacker, who has got hold of the weights. It is **granted** them by
# name, and gives the **known-weights bound** of all lessons: the same kind of search without the
# secret. (It bounds that kind of search. Where it fails, too, a better prior may not.)

# %% [markdown]
# ## The idea
#
# The defence costs no noise and no accuracy: the client keeps a few layers more. The rest stays as
# in lesson 04.
#
# So: **does a deeper cut protect the images? The client's network? And from whom?**

# %% [markdown]
# ## Settings

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist, fashion_mnist, cifar10
cut: str = "conv2"  # the stage after which the network is cut
budget: str = "quick"  # one of: tiny, quick, full
seed: int = 0  # changes victim, clone and data order together, each from a stream of its own
device: str = "cpu"  # one of: cpu, cuda

# %%
import csv
import json
import textwrap
from dataclasses import replace

import numpy as np
import torch
from IPython.display import display
from scipy.stats import spearmanr

from sltools import data, experiments, lessons, metrics, models, plots, protocol
from sltools.attacks import KnownWeightsInversion, UnSplit
from sltools.claims import Claims, compare
from sltools.exercises import check

as_shown = (dataset, cut, budget, seed) == ("digits", "conv2", "quick", 0)
claim = Claims(as_shown)
of_record = Claims(as_shown=True)  # what was recorded is the same with any settings

source = data.load(dataset)
session = experiments.train_victim(source, cut, budget=budget, seed=seed, device=device)
private = experiments.first_targets(source, 10).to(device)  # one of each class
images, names = private.images, [source.classes[label] for label in private.labels]
mean_image = source.train.images.mean(0).to(device)
blind = np.median(metrics.mse(mean_image.expand_as(images), images).tolist()).item()
test = source.test[: {"tiny": 200, "quick": 2000, "full": len(source.test)}[budget]]  # for scores
print(session.observe(images))
claim("share of the test images that the victim gets right", session.accuracy(test), ">", 0.9)

# %% [markdown]
# ## What a deeper cut keeps back
#
# [Lesson 03](03_smashed_data.ipynb) counted equations and unknowns, and
# [lesson 04](04_inversion_and_stealing.ipynb) added the weights to the unknowns. In one sentence:
# $N$ images give $N\,|z|$ equations for $N\,|x| + |W|$ unknowns; a stage can lower the first number
# and raise the second.
#
# Not every number sent is an equation. **ReLU** replaces what is below zero by zero: a unit that is
# off only says "not above zero". **Max pooling** passes on one input of each window (here of 2 × 2,
# so one number in four, whatever the image) and says of the others only that they were not larger.
#
# Before you look: after which stage does the server receive fewer numbers than an image has pixels?

# %%
guess_stage = None  # your guess, of conv1 relu1 pool1 conv2 relu2 pool2 fc1 relu3 fc2 relu4

# %% [markdown]
# Both sides of the count, for one of ten images that share their weights. Equations: what is sent,
# and what of it is not zero. Unknowns: the pixels, and with them a tenth of the weights.

# %%
order = models.stages(session.client.front) + models.stages(session.server.model)
layers = list(zip(order, [*session.client.front, *session.server.model], strict=True))
cuts = [stage for stage in order[:-1] if stage != "flatten"]  # flatten sends what its input sends


def drawn(stages):
    """The stages that a figure has room for: all of them, or all but the ReLUs."""
    return stages if len(stages) <= 12 else [s for s in stages if not s.startswith("relu")]


def triple(groups):
    """Median, least and greatest of each group: three lists, as a depth curve wants them."""
    return [[float(f(list(group))) for group in groups] for f in (np.median, min, max)]


def counted():
    """Of each stage: the numbers sent for an image, those not zero, and the weights up to it."""
    sent, alive, weights, total, now = {}, {}, {}, 0, images
    with torch.no_grad():
        for stage, layer in layers:
            now, total = layer(now), total + sum(weight.numel() for weight in layer.parameters())
            sent[stage], weights[stage] = now[0].numel(), total
            alive[stage] = (now.flatten(1) != 0).sum(1).tolist()
    return sent, alive, weights


pixels = images[0].numel()
sent, alive, weights = counted()
plots.depth_curve(
    drawn(cuts),
    {"not zero": triple([alive[stage] for stage in drawn(cuts)])},
    "numbers for one image",
    log=True,
    baselines={
        "sent": [sent[stage] for stage in drawn(cuts)],
        "pixels": pixels,
        "pixels + weights / 10": [pixels + weights[stage] / 10 for stage in drawn(cuts)],
    },
)

# %%
print(f"{'cut after':10}{'weights kept':>13}{'of all':>8}{'unknowns per equation, 10 images':>34}")
for stage in cuts:
    ratio = (10 * pixels + weights[stage]) / (10 * sent[stage])
    print(f"{stage:10}{weights[stage]:13,}{weights[stage] / weights[order[-1]]:8.1%}{ratio:34.2f}")
fewer = [stage for stage in cuts if sent[stage] < pixels] or ["none"]
compare(guess_stage, fewer[0], "the first stage that sends fewer numbers than an image has pixels")

# %% [markdown]
# The count predicts trouble for the attacker wherever a ratio is above 1, and most with the
# **dense** layers: they hold most weights, and each is used once. (Whoever keeps them also computes
# and trains them: the second column is the price of this defence.) But it knows nothing of priors,
# nor of how easy an image is. So let us look.

# %% [markdown]
# **Try it.** Write the count for any client and images: first the unknowns, then the equations.


# %%
def unknowns_and_equations(client, images):  # an nn.Sequential and (N, C, H, W)
    # Hint: images.numel() counts the pixels of all images; client(images) is z.
    raise NotImplementedError("your code here")


check("05.count", unknowns_and_equations)

# %% [markdown]
# ## The study
#
# The following results are **recorded**: the attack of lesson 04 at every stage, against several
# victims, with several clone seeds each. Every attack has several restarts, of which the attacker
# keeps the one of **least objective**, for that is what it can see.
#
# The third data set, CIFAR-10, is **photographs**, which need other settings (printed below). Their
# background is not black, so `l1` is 0. And after a linear first layer any mixture of the three
# colours explains the smashed data just as well. `photographs` decides by what holds for most:
# first weights spread alike over colours, and photographs vary most in brightness, are bluer
# further up and greener towards their edges. That takes more than ten images to tell. Their victims
# are right on little more than half of the test images.

# %%
folder = lessons.course() / "results"
facts = json.loads((folder / "depth.json").read_text(encoding="utf-8"))


def recorded():
    """Data set -> stage -> (victim, clone seed) -> the restarts of one attack."""
    found = {}
    with (folder / "depth.csv").open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            data_set, stage, chosen, _ = map(line.pop, ("dataset", "stage", "chosen", "device"))
            row = {name: float(text) for name, text in line.items()} | {"chosen": chosen == "True"}
            attacks_there = found.setdefault(data_set, {}).setdefault(stage, {})
            attacks_there.setdefault((row["victim"], row["clone"]), []).append(row)
    return found


study = recorded()


def stages_of(data_set):
    """The stages that were attacked, in the order of the network."""
    net = models.for_images(data.SHAPES[data_set])
    return [stage for stage in models.stages(net) if stage in study[data_set]]


def kept(data_set, stage, field):
    """One value for each attack: that of the restart which the attacker kept."""
    attacks = study[data_set][stage].values()
    return [run[field] for runs in attacks for run in runs if run["chosen"]]


def middle(data_set, stage, field):
    return float(np.median(kept(data_set, stage, field)))


# %% tags=["nbval-ignore-output"]
# not compared: the record grows
print("recorded with:", facts["command"], f"(torch {facts['versions']['torch']})")
for data_set in study:
    size = f"{facts['targets'][data_set]} targets, {facts['attack']['steps']:,} steps"
    print(f"{data_set}: {size}, {facts['restarts'][data_set]} restarts")
    if facts["priors"][data_set]:
        print(f"    settings changed: {facts['priors'][data_set]}")
print(textwrap.fill(facts["remark"], 88))

# %% [markdown]
# ### The images
#
# On the digits: what is the first cut at which the median attack is further from the truth than the
# mean image? And what share of the mean image's error is left there for who knows the weights?

# %%
guess_end = None  # your guess: a stage, as "relu1"
guess_known = None  # your guess: a share, 0 to 1

# %% [markdown]
# Raw MSE of the reconstructions (the median of the targets). A marker is the median of the attacks;
# its bar runs from the best to the worst. The **mean image** of the training set needs no smashed
# data. That of the target's **class** is stricter: who knows the label (lesson 07 finds labels) has
# it without an inversion. **Known weights** is the bound of the threat card: the best of several
# searches, chosen with the truth at hand.

# %%
BESIDE = {
    "mean image": "mean_image_mse",
    "of the class": "class_mean_mse",
    "known weights": "known_weights_mse",
}


def shown(data_set):
    return drawn(stages_of(data_set))


def draw(data_set, field, label, log, baselines):
    series = {"UnSplit": triple([kept(data_set, stage, field) for stage in shown(data_set)])}
    label = f"{label}, {data_set} (recorded)"
    return plots.depth_curve(shown(data_set), series, label, log, baselines)


# %% tags=["nbval-ignore-output"]
# not compared: the record grows
for data_set in study:
    beside = {n: [middle(data_set, s, f) for s in shown(data_set)] for n, f in BESIDE.items()}
    display(draw(data_set, "raw_mse", "raw MSE", True, beside))

# %%
over = [s for s in stages_of("digits")
        if middle("digits", s, "raw_mse") > middle("digits", s, "mean_image_mse")]  # fmt: skip
known = middle("digits", over[0], "known_weights_mse") / middle("digits", over[0], "mean_image_mse")
compare(guess_end, over[0], "digits, recorded: the first cut with more error than the mean image")
compare(guess_known, known, "share of the mean image's error that is left to who knows the weights")

# %% [markdown]
# ### The network
#
# The same attacks, the other loot: the clone in the client's place, before the server's true
# layers. The baselines are the victim, and the best and the median of all **random clients**: early
# in the network the server's layers get much right on *some* random edges and blobs. A study with
# one random client would have reported its luck. (MNIST looks much as the digits do; the table has
# its numbers.)

# %%
guess_clone = None  # your guess, digits after pool2: the median clone's accuracy, 0 to 1


def random_clients(data_set, stage):
    """The accuracy of every random client that was tried."""
    return [run["random_accuracy"] for runs in study[data_set][stage].values() for run in runs]


# %% tags=["nbval-ignore-output"]
# not compared: the record grows
for data_set in ("digits", "cifar10"):
    strangers = [random_clients(data_set, stage) for stage in shown(data_set)]
    beside = {
        "victim": [middle(data_set, stage, "victim_accuracy") for stage in shown(data_set)],
        "random client, best": list(map(max, strangers)),
        "random client, median": list(map(np.median, strangers)),
    }
    display(draw(data_set, "clone_accuracy", "clone accuracy", False, beside))
compare(guess_clone, middle("digits", "pool2", "clone_accuracy"), "digits, pool2: median clone")

# %% [markdown]
# The numbers, with the worst attack beside the median. The last column belongs to the second
# attacker.

# %% tags=["nbval-ignore-output"]
# not compared: the record grows
for data_set in study:
    print(f"\n{'':10}{'':25}{'mean':>8}{'of the':>8}{'':24}{'MSE with':>15}")
    print(
        f"{data_set:10}{'attacks':>8}{'raw MSE':>9}{'worst':>8}{'image':>8}{'class':>8}"
        f"{'clone':>8}{'worst':>8}{'victim':>8}{'known weights':>15}"
    )
    for stage in stages_of(data_set):
        errors, clones = (kept(data_set, stage, f) for f in ("raw_mse", "clone_accuracy"))
        mean, class_mean, known_there = (middle(data_set, stage, f) for f in BESIDE.values())
        print(
            f"{stage:10}{len(errors):8}{np.median(errors):9.4f}{max(errors):8.4f}"
            f"{mean:8.4f}{class_mean:8.4f}{np.median(clones):8.1%}{min(clones):8.1%}"
            f"{middle(data_set, stage, 'victim_accuracy'):8.1%}{known_there:15.2g}"
        )

# %%
convolutional, dense = stages_of("digits")[:6], stages_of("digits")[6:]


def all_of(data_set, stages, field):
    """One value for each attack at these stages."""
    return np.concatenate([kept(data_set, stage, field) for stage in stages])


def beside_mean(data_set, stages, field):
    """Errors, divided by the mean image's."""
    return all_of(data_set, stages, field) / all_of(data_set, stages, "mean_image_mse")


print("recorded, digits; MSE as a share of the mean image's:")
of_record("every attack up to pool2", beside_mean("digits", convolutional, "raw_mse"), "<", 1)
of_record("every attack from fc1 on", beside_mean("digits", dense, "raw_mse"), ">", 1)
of_record("fc1, known weights", beside_mean("digits", ["fc1"], "known_weights_mse"), "<", 1 / 5)
for data_set in study:
    shares = beside_mean(data_set, stages_of(data_set), "known_weights_mse")
    of_record(f"{data_set}, known weights at every stage", shares, "<", 1)
print("recorded, digits:")
grows = middle("digits", "pool2", "raw_mse") / middle("digits", "pool1", "raw_mse")
of_record("median raw MSE at pool2, divided by that at pool1", grows, ">", 3)
of_record("accuracy of every clone up to pool2",
          all_of("digits", convolutional, "clone_accuracy"), ">", 0.8)  # fmt: skip
of_record("accuracy of every clone at fc1", kept("digits", "fc1", "clone_accuracy"), "<", 0.2)
of_record("mnist, median clone at pool2", np.median(kept("mnist", "pool2", "clone_accuracy")),
          ">", max(random_clients("mnist", "pool2")))  # fmt: skip
photographs = {at: np.median(kept("cifar10", at, "clone_accuracy")) for at in ("conv2", "pool1")}
of_record("cifar10, median clone at conv2 and at pool1, divided by the victim",
          [photographs[at] / middle("cifar10", at, "victim_accuracy") for at in photographs],
          ">", [0.9, 0.5])  # fmt: skip
lucky = random_clients("digits", "pool1")
of_record("accuracy of the best random client at pool1", max(lucky), ">", 0.8)
of_record("accuracy of the median one", np.median(lucky), "<", 0.5)


# %%
def beside_class(data_set, stages):
    """The median error with known weights, divided by that of the mean image of the class."""
    fields = ("known_weights_mse", "class_mean_mse")
    pairs = [[middle(data_set, stage, field) for field in fields] for stage in stages]
    return [known_there / class_mean for known_there, class_mean in pairs]


print("recorded, known weights; MSE as a share of that of the mean image of the class:")
of_record("digits, up to relu3", beside_class("digits", stages_of("digits")[:-2]), "<", 1)
of_record("digits, fc2 and relu4", beside_class("digits", stages_of("digits")[-2:]), ">", 1)
for data_set in ("mnist", "cifar10"):
    of_record(f"{data_set}, every stage", beside_class(data_set, stages_of(data_set)), "<", 1)


def photographs(field):
    return middle("cifar10", "pool1", field)


print("recorded, photographs at pool1, the median attack:")
both_means = [photographs("mean_image_mse"), photographs("class_mean_mse")]
of_record("raw MSE, and both means'", photographs("raw_mse"), ">", both_means)
of_record("aligned MSE, and the mean image's",
          photographs("aligned_mse"), "<", photographs("mean_image_aligned_mse"))  # fmt: skip
of_record("SSIM, and twice the mean image's",
          photographs("ssim"), ">", 2 * photographs("mean_image_ssim"))  # fmt: skip
print("recorded, at pool2:")
for data_set, floor in (("mnist", "mean image"), ("digits", "of the class")):
    above = all_of(data_set, ["pool2"], "raw_mse") > all_of(data_set, ["pool2"], BESIDE[floor])
    print(f"{data_set}, attacks above the line '{floor}': {above.sum()} of {len(above)}")
    of_record("their share", above.mean(), "<", 1 / 2)
blank_margins = middle("mnist", "relu4", "ssim")
of_record("mnist: SSIM at relu4, and that at pool2 less 0.05",
          blank_margins, ">", middle("mnist", "pool2", "ssim") - 0.05)  # fmt: skip

# %% [markdown]
# Read for the digits, the study says three things.
#
# 1. **Convolutions protect neither.** One or two of them, with ReLU and pooling, blur the loot; in
#    every attack the images stay better than the mean image, and the clones useful. (Some attacks
#    at pool2 show less than the mean image of the class does.)
# 2. **The first dense layer stops this attack**, and both halves of it at once. That is no
#    accident: images and clone are found *together*, and a wrong clone explains wrong images.
# 3. **It was the secret that stopped it, not the loss.** With known weights the images are still
#    found in the same smashed data, less well the deeper the cut. (At the last two stages that is
#    not shown: there the search finds less than the mean image of the class. That is still a word
#    about a search: one of the exercises gets as far in a fraction of the steps, with public images
#    for a prior.)
#
# A warning from our own kitchen. The bound of this study was once one search with weak priors and
# half the steps. After the dense layers of MNIST it ended above the mean image, and this page said
# that nothing was left to find, even with the weights. A reader gave it the attack's own priors,
# and it found the images. **Such a bound is no better than the best search tried.**
#
# The photographs say a fourth thing. After the first **pooling** the bound stays far below, but
# with these steps the median attack is by raw MSE no nearer than the mean image, and further than
# that of the class. Aligned MSE (each image with its best gain and offset) and SSIM (structural
# similarity) see some structure there. No one measure tells it all: on MNIST, SSIM sees no
# difference between pool2 and the last stages, where the raw error does. (The margins are black in
# every image, and right in a blank one, too.)

# %% [markdown]
# ## Choosing a restart by what the attacker sees
#
# A restart is the same search from another random clone. The attacker makes six and keeps one, by
# its **objective**, or it may go by the **feature loss** alone. Does that rank the restarts as the
# truth does? Before you look: in how many of nine attacks on the digits at conv2 was the kept
# restart nearer to the truth than the median one? And on MNIST?

# %%
guess_digits = None  # your guess, 0 to 9
guess_mnist = None  # your guess, 0 to 9

# %% [markdown]
# **Spearman's rank correlation** orders the six restarts by the one number, then by the other, and
# correlates the two orders. 1 means the same order, 0 no relation, −1 that the attacker prefers its
# worst results.
#
# Six restarts say little: two shuffled lists of six have a correlation with standard deviation
# $1/\sqrt{5}$. We have one correlation for each attack, so their mean over $k$ attacks is within
# $2/\sqrt{5k}$ of zero nineteen times out of twenty if there is no relation at all. A star marks
# what is beyond.

# %%
ranked = [data_set for data_set in study if facts["restarts"][data_set] >= 6]


def rank_correlation(data_set, stage, seen):
    """Correlate the ranks of `seen` and of raw MSE; the mean over the attacks, and its bound."""
    attacks = study[data_set][stage].values()
    pairs = [[[run[name] for run in runs] for name in (seen, "raw_mse")] for runs in attacks]
    found = [spearmanr(*lists).statistic for lists in pairs]
    return np.mean(found), 2 / np.sqrt(5 * len(found))


def bought(data_set, stage, rule="objective"):
    """Raw MSE of the restart that `rule` picks, relative to the median restart, of each attack."""
    return [
        min(runs, key=lambda run: run[rule])["raw_mse"]
        / np.median([run["raw_mse"] for run in runs])
        for runs in study[data_set][stage].values()
    ]


def draw_bought(data_set):
    stages = shown(data_set)
    rules = {"kept (objective)": "objective", "best (not known)": "raw_mse"}
    series = {n: triple([bought(data_set, s, rule) for s in stages]) for n, rule in rules.items()}
    label = f"MSE relative to median restart, {data_set}"
    return plots.depth_curve(stages, series, label, baselines={"median restart": 1.0})


# %% tags=["nbval-ignore-output"]
# not compared: the record grows
for data_set in ranked:
    print(f"\n{data_set:10}{'mean rank correlation with raw MSE':38}MSE of the kept restart,")
    print(f"{'':10}{'by chance':12}{'objective':12}{'feature loss':14}relative to the median one")
    for stage in stages_of(data_set):
        cells = ""
        for seen in ("objective", "feature_loss"):
            mean, chance = rank_correlation(data_set, stage, seen)
            cells += f"{mean:+.2f}{'*' if abs(mean) > chance else ' '}".ljust(12)
        ratios = bought(data_set, stage)
        better = f"better in {sum(ratio < 1 for ratio in ratios)} of {len(ratios)} attacks"
        print(f"{stage:10}± {chance:.2f}      {cells}  {np.median(ratios):.2f}, {better}")

# %% [markdown]
# What does the choice *buy*? Compare the restart that was kept with the median one, which a single
# restart would give, and with the best one, which nobody but us can name.

# %% tags=["nbval-ignore-output"]
# not compared: the record grows
for data_set in ranked:
    display(draw_bought(data_set))


# %%
def beyond(data_set, stages):
    """The objective's mean rank correlations, divided by what luck would give."""
    found = [rank_correlation(data_set, stage, "objective") for stage in stages]
    return [mean / chance for mean, chance in found]


for data_set, guessed in (("digits", guess_digits), ("mnist", guess_mnist)):
    wins = sum(ratio < 1 for ratio in bought(data_set, "conv2"))
    compare(guessed, wins, f"{data_set}, conv2: attacks whose kept restart beats the median one")
misled = [sum(ratio > 1 for ratio in bought("digits", s)) for s in stages_of("digits")]
of_record("digits, at each stage: attacks that kept a worse one", misled, ">", 0)
objectives = [middle("digits", stage, "objective") for stage in ("fc1", "pool1")]
of_record("digits: objective at fc1, and at pool1", objectives[0], "<", objectives[1])
higher = middle("digits", "fc1", "raw_mse") / middle("digits", "pool1", "raw_mse")
of_record("digits: raw MSE at fc1, divided by that at pool1", higher, ">", 50)
print("the objective's rank correlation, divided by what luck would give:")
of_record("mnist, up to pool2", beyond("mnist", convolutional), ">", 1)
of_record("mnist, from fc1 on", beyond("mnist", dense), "<", 1)
of_record("digits, from fc1 on", beyond("digits", dense), "<", 1)
trusted = sum(size > 1 for size in beyond("digits", convolutional))
of_record("digits, up to pool2: stages where it is above 1", trusted, "<=", 1)
for data_set in ranked:
    ranks = {
        seen: np.array([rank_correlation(data_set, s, seen)[0] for s in stages_of(data_set)])
        for seen in ("feature_loss", "objective")
    }
    ahead = (ranks["feature_loss"] > ranks["objective"]).sum()
    of_record(f"{data_set}: stages, of ten, where the feature loss ranks better", ahead, ">", 5)

# %% [markdown]
# Where does the number mislead?
#
# * **From cut to cut, entirely.** After the dense layers the objective is lower and the images are
#   worthless: with enough unknowns everything can be explained.
# * **From restart to restart, it depends on the data.** On MNIST the number is a good guide up to
#   pool2: the restarts differ, and the better image has the lower objective (with an exception,
#   [in the appendix](appendix/05_priors_and_fading.ipynb)). On the digits, with the very same
#   networks and settings, it is next to none: without a star, these attacks cannot tell choosing by
#   the objective from choosing blindly.
# * **After the dense layers there is nothing good to choose from**, whatever stars stand there.
#
# The feature loss often ranks better: the priors in the objective like smooth and dark images,
# true or not. But whoever changes the rule after having seen this table has looked at the truth,
# and must show on other data that the new rule is better.
#
# So the honest score of an attack is that of the restart which its *own* rule kept. A study that
# reports the best one reports an attacker who can see the truth.

# %% [markdown]
# **Try it.** Be the attacker: of several restarts, return the number of the one to keep, counted
# from 0, and all feature losses, as a tensor. Each is the mean squared error of what the restart's
# own clone makes of its own images, divided by the variance of the smashed data.


# %%
def choose_restart(clones, inputs, smashed):  # R networks, (R, N, C, H, W) images, and z
    # Hint: compare clones[i](inputs[i]) with smashed, for each restart i.
    raise NotImplementedError("your code here")


check("05.choose", choose_restart)

# %% [markdown]
# ## How many steps?
#
# Now live, from **three starts**: three clones of different random weights, the same three each
# time. A change counts as an effect only if all starts agree on its direction. By luck alone three
# agree one time in four, so this is a hint and no proof; look at the size of the factor as well.
#
# The attack gets a third of its steps, all of them, and three times as many. By what factor does
# that last change multiply the error?

# %%
guess_factor = None  # your guess: error after three times the steps / error after the usual ones

# %%
STEPS = {"tiny": 9, "quick": 225, "full": 1000}[budget]
own_priors = experiments.PRIORS.get(dataset, {})  # of photographs; none else
reference = UnSplit(steps=STEPS, restarts=3, snapshots=1, seed=seed, **own_priors)


def attacked(victim, attack):
    """Attack `victim` from every start, and score the images and the clone."""
    return experiments.score_restarts(attack.runs(victim.observe(images)), victim, images, test)


by_steps = {
    steps: attacked(session, replace(reference, steps=steps))
    for steps in (STEPS // 3, STEPS, 3 * STEPS)
}
base = by_steps[STEPS]
plots.lines(
    list(by_steps),
    {f"start {i}": [scores.raw[i] for scores in by_steps.values()] for i in range(3)},
    "steps",
    "raw MSE, median of ten images",
    log=True,
)

# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
print(f"{'':26}{'raw MSE':>8}{'from':>8}{'to':>8}{'clone':>8}{'worst':>8}")
for steps, scores in by_steps.items():
    raw, right = scores.raw, scores.accuracy
    print(f"{f'{steps} steps':26}{np.median(raw):8.4f}{min(raw):8.4f}{max(raw):8.4f}"
          f"{np.median(right):8.1%}{min(right):8.1%}")  # fmt: skip
print(f"{'mean image':26}{blind:8.4f}")
print(f"{'victim':50}{session.accuracy(test):8.1%}")

# %%
fewest, usual, most = (np.array(scores.raw) for scores in by_steps.values())
compare(guess_factor, np.median(most) / np.median(usual), "three times the steps: factor")
print("raw MSE from every start:")
claim("usual steps, as a share of the mean image's", usual / blind, "<", 1)
claim("a third of the steps, divided by that of the usual steps", fewest / usual, ">", 2)
claim("three times the steps, divided by that of the usual steps", most / usual, "<", 1)

# %% [markdown]
# Whoever tests a cut with too short an attack finds it safe. Before you report that an attack
# fails, give it more steps, until they no longer help. (All three runs let their learning rates
# fall to zero, so none was simply cut short.)

# %% [markdown]
# ## Depth for those who know the weights
#
# A second client, an app that is unpacked, a stolen checkpoint: there are ways to learn the
# weights. Here are both attackers on the same client, with as many steps: UnSplit at fc1 (its
# restart of least objective), and the second attacker at pool2, at fc1 and one dense layer later.
# What share of the mean image's error is left to the second one at fc1?

# %%
guess_live = None  # your guess: a share, 0 to 1

# %%
informed = KnownWeightsInversion(steps=STEPS, tv=0.1, l1=own_priors.get("l1", 0.01))
deeper = {s: protocol.recut(session, s) for s in ("pool2", "fc1", "fc2") if s in cuts}
in_the_dark = attacked(deeper["fc1"], reference)
dark = in_the_dark.kept
by_weights = {
    stage: informed(victim.observe(images, grants=["client_model"])).inputs
    for stage, victim in deeper.items()
}
pictures = {"fc1, weights unknown": dark.inputs.cpu()}
pictures |= {f"{stage}, weights known": found.cpu() for stage, found in by_weights.items()}
plots.reconstructions(images.cpu(), pictures, names)

# %%
left = {s: np.median(metrics.mse(x, images).tolist()) / blind for s, x in by_weights.items()}
compare(guess_live, left["fc1"], "fc1, weights known: share of the mean image's error")
print("raw MSE as a share of the mean image's:")
claim("fc1, weights unknown, every start", np.array(in_the_dark.raw) / blind, ">", 1)
claim("fc1, weights known", left["fc1"], "<", 1 / 4)
claim("weights known, at pool2 and at the deepest cut, beside fc1",
      [left["pool2"] / left["fc1"], left["fc1"] / list(left.values())[-1]], "<", 1)  # fmt: skip
claim("fc1, weights unknown: feature loss of the kept images", dark.feature_loss, "<", 0.05)

# %% [markdown]
# UnSplit's images explain nearly all of the smashed data, and show nothing. Whoever has the weights
# reads the digits at the same cut; depth makes it harder, not impossible.

# %% [markdown]
# ## So, how deep?
#
# * **After the first convolution alone**, it takes algebra, and no search:
#   [before the first pooling](appendix/05_before_the_first_pooling.ipynb).
# * **For the images**: against a server that does not know the weights and has no images of the
#   kind, the first dense layer is where this attack ends on digits and MNIST (on MNIST the worst
#   attacks at pool2 are no better than the mean image already, by raw MSE), and the first pooling
#   is on photographs, with the steps recorded here. Against one that does, no cut recorded here
#   brings the error up to the mean image's. At the last two of digits it is above that of the
#   mean image of the right *class*, though, which the label alone would give.
# * **For the network**: on digits and MNIST, convolutions are copied along with the images; on
#   photographs, those before the first pooling. What the first dense layer adds is mostly weights,
#   and so many of them that the clone fits without being right.
# * **At a price**: the client keeps, trains and computes all layers up to the cut. A client that
#   can afford the dense layers hardly needs the server.
#
# **The clinic** can now answer: convolutions and pooling keep neither scans nor layers from the
# vendor, and the first dense layer stopped this attack only while the weights were secret. What it
# tells a patient is not "safe at fc1" but "not found by this search, while no copy of our layers
# gets out and the vendor has no images of the kind".

# %%
# what `sltools sweep` keeps of this lesson
collected = {"raw_mse": np.median(base.raw), "clone_accuracy": np.median(base.accuracy)}

# %% [markdown]
# ## In the appendix
#
# * [Before the first pooling](appendix/05_before_the_first_pooling.ipynb): blind deconvolution.
# * [Priors, and one that fades](appendix/05_priors_and_fading.ipynb): what the images owe to total
#   variation, and the clone does not.
# * [More images, a younger client](appendix/05_images_and_age.ipynb): whom do they help?
# * [What else was tried](appendix/05_what_else_was_tried.ipynb): exposure, leak, and a dozen ideas
#   from papers and forums.
#
# ## Limitations
#
# * **An attack that fails proves nothing.** We know where *this* search ends. A server with
#   labelled images gets past the dense layers ([lesson 10](10_attackers_with_data.ipynb)), and a
#   malicious one makes the client's layers easy to invert.
# * **The digits are easy**: enlarged from 8 by 8 pixels, and so they suit a smoothness prior. What
#   holds for them at a cut need not hold for other images.
# * **The attacks on one victim share it**, and its ten targets. Three victims are not many.
# * **The live experiments have one victim, three starts and few steps**: they show how to ask.
# * **Known weights is a search too**, with its own settings. Where it fails, another may not.
#
# ## Try it
#
# * Set `cut = "pool1"`, then "pool2" and "fc1". What do three times the steps change there?
# * Invent another rule for choosing a restart, one that looks only at what the server has. Start
#   from this: do two restarts agree on an image? Test your rule as we tested the objective.
# * Set `dataset = "mnist"` and compare the live experiments with the digits'.
#
# ## Review questions
#
# **1.** A vendor reports: "We cut after the first dense layer. UnSplit reconstructs nothing, so the
# smashed data do not contain the images." What is wrong with the second half?
#
# <details><summary>Answer</summary>
#
# The attack failed because the weights were unknown. With known weights the images come back from
# the same smashed data. The data contain the images; the secrecy of the weights hides them, and
# nothing in split learning guarantees that secrecy.
#
# </details>
#
# **2.** An attacker runs fifty restarts at a deep cut and keeps the one of least objective. A paper
# reports the one of least MSE. Which number is the attack's, and what must be shown before more
# restarts can be called an advantage?
#
# <details><summary>Answer</summary>
#
# The number of the restart that the attacker kept, by a rule it can compute. Reporting the least
# MSE grants it the truth. More restarts help only where that rule ranks restarts as the error does,
# which must be measured at that cut. Where the rank correlation is about zero, fifty restarts are
# worth one; where it is negative, they do harm.
#
# </details>
#
# ## Further reading
#
# * E. Erdoğan, A. Küpçü, A. E. Çiçek: *UnSplit: Data-Oblivious Model Inversion, Model Stealing, and
#   Label Inference Attacks Against Split Learning*, WPES 2022.
#   [arXiv 2108.09033](https://arxiv.org/abs/2108.09033). The attack of this lesson.
# * D. Pasquini, G. Ateniese, M. Bernaschi: *Unleashing the Tiger: Inference Attacks on Split
#   Learning*, CCS 2021. [arXiv 2012.02670](https://arxiv.org/abs/2012.02670). A malicious server,
#   for which depth is a smaller obstacle.
# * X. Zhu et al.: *Passive Inference Attacks on Split Learning via Adversarial Regularization*
#   (SDAR), NDSS 2025. [arXiv 2310.10483](https://arxiv.org/abs/2310.10483). A passive server with
#   data of its own, at deep cuts.
#
# **Next:** [lesson 06](06_model_theft.ipynb), on what a thief can do with the clone.
