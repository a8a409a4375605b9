# ---
# jupyter:
#   sltools:
#     minutes: 30
#     alternative: {seed: 1}
# ---

# %% [markdown]
# # A server that spoils the network
#
# [Lesson 09](../09_malicious_server.ipynb) has a server that lies to read images. This one wants
# no image. It wants the clinic's network to be *wrong* when it suits somebody, unseen.
#
# It has three ways: **adversarial examples**, images changed so little that a person does not mind
# (SLADV); a **backdoor** put into its own layers when the training is over (Dullahan); and a
# backdoor taught to the client during the training (chronic poisoning). At the end the clinic turns
# the first one round, and uses images near a border to recognise **its own network at a thief's**.
#
# **Threat card.** A malicious server in vanilla split learning: it sees smashed data, has its own
# layers and the client's architecture. It has a clone of the client from ten images
# ([UnSplit](../04_inversion_and_stealing.ipynb)) and, for backdoors, some images of its own. What
# a row is granted beyond that, the row says. It may change its own layers at any time: the client
# never sees them.
#
# **Time.** About 30 minutes (estimated).

# %% [markdown]
# ## Settings

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist, fashion_mnist, cifar10
budget: str = "quick"  # one of: tiny, quick, full
seed: int = 0  # changes victim, clone and data order together, each from a stream of its own
device: str = "cpu"  # one of: cpu, cuda

# %%
import csv
import dataclasses
import statistics

import torch
from torch import nn

from sltools import data, experiments, lessons, metrics, plots
from sltools.attacks import SLADV, Dullahan, Trigger, UnSplit
from sltools.claims import Claims, compare
from sltools.defenses import Fingerprint

torch.set_num_threads(1)  # small networks are faster so, whatever the number of cores
as_shown = (dataset, budget, seed) == ("digits", "quick", 0)
claim = Claims(as_shown)
of_record = Claims(as_shown=True)  # what was recorded is the same with any settings

source = data.load(dataset)
own, held_out = experiments.auxiliary_data(source, 100 if budget == "tiny" else 200, seed=seed)
asked = held_out[:150].to(device)
victim = experiments.train_victim(source, "pool1", budget=budget, seed=seed, device=device)
f, g = victim.client.front, victim.server.model
steps = {"tiny": 50, "quick": 500, "full": 2000}[budget]
targets = experiments.first_targets(source, experiments.usual_targets(dataset)).images
stolen = UnSplit(steps=steps, seed=seed)(victim.observe(targets.to(device)))
view = victim.observe(source.train.images[:500].to(device))
print(f"the server has {own}; its clone of the client comes from {len(targets)} images")


def accuracy(images):
    """Of the whole split, when it is shown these in place of the held-out images."""
    return victim.accuracy(data.Split(images, asked.labels))


# %% [markdown]
# ## Images that the network gets wrong
#
# [Lesson 06](../06_model_theft.ipynb) made adversarial examples on a clone, with true labels. SLADV
# (Fan et al. 2023) needs none. It asks what the network answers to $x$ and climbs away from it, or
# does not even use the layers after the cut: it moves the **smashed data** of the changed image as
# far as it can from $\tilde f(x)$, where $\tilde f$ is the clone,
#
# $$\max_{\lVert\delta\rVert_\infty \le \varepsilon} \lVert \tilde f(x + \delta) -
# \tilde f(x) \rVert^2 .$$
#
# Beside both stands **noise** that goes to the ends of the same bounds. Which aim does more harm,
# and by how much: the class, or the smashed data?

# %%
guess_class = None  # your guess: accuracy that is left, 0 to 1, at a change of 0.15

# %%
made = {
    aim: SLADV(aim, epsilon=0.15, seed=seed)(view, asked.images, front=stolen.clone)
    for aim in ("class", "intermediate")
}
first = slice(0, 10)
plots.gallery(
    {
        "clean": asked.images[first].cpu(),
        "noise": made["class"].noise[first].cpu(),
        "away from its class": made["class"].examples[first].cpu(),
        "away at the cut": made["intermediate"].examples[first].cpu(),
    }
)

# %%
left = {
    "clean": victim.accuracy(asked),
    "noise": accuracy(made["class"].noise),
    "away at the cut": accuracy(made["intermediate"].examples),
    "away from its class": accuracy(made["class"].examples),
}
plots.bars({name: 100 * value for name, value in left.items()}, "% right")

# %%
print("knew:", ", ".join(made["class"].knowledge))
compare(guess_class, left["away from its class"], "accuracy left, away from its class")
claim("noise takes of the accuracy", left["clean"] - left["noise"], "<", 0.1)
claim("away from its class, this is left", left["away from its class"], "<", 0.4)
claim("away at the cut, this is left", left["away at the cut"], ">", left["away from its class"])

# %% [markdown]
# A change that looks no worse than noise takes nearly all, if the server uses its own layers to say
# where to go. The published idea, which stops at the cut, is weaker here: most of what moves at a
# shallow cut is not what the class hangs on. Recorded, for three fronts in place of the client's:

# %%
with (lessons.course() / "results/server_integrity_digits.csv").open(encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
record = [row for row in rows if row["stage"] != "pool2"]  # docs/results.md has that cut, too


def recorded(measure, **of):
    """The values of one measure in the rows that are `of` something, one for each victim."""
    return [
        float(row["value"])
        for row in record
        if row["measure"] == measure and all(row[key] == value for key, value in of.items())
    ]


def spread(values):
    """Median, least and greatest."""
    return statistics.median(values), min(values), max(values)


def columns(kinds):
    """What `plots.rows` draws: medians, least and greatest of some lists."""
    return [*zip(*map(spread, kinds), strict=True)]


FRONTS = ["client's weights", "UnSplit", "PCAT"]
series = {
    shown: columns(
        [recorded(measure, study="adversarial", attack=aim, front=front) for front in FRONTS]
    )
    for shown, aim, measure in (
        ("noise", "class", "noise"),
        ("away at the cut", "intermediate", "attacked"),
        ("away from its class", "class", "attacked"),
    )
}
plots.rows(FRONTS, series, "accuracy left at a change of 0.1 (recorded); chance in grey", 0.1)

# %% [markdown]
# ## A backdoor after the training
#
# The server may do better than change images one by one. It changes **its own layers** when the
# training is over (Dullahan, Pu et al. 2024): stamped images, sent through the clone, are to become
# one class; all else, also the client's own smashed data that it recorded, stays as it was. No
# message of the training has anything to do with it, so a detector has nothing to see. Here the
# trigger is a patch of 6 × 6 pixels.
#
# How often will the *real* client's stamped images be taken for the target class?

# %%
guess_success = None  # your guess, 0 to 1

# %%
trigger = Trigger(target=7, size=6, row=-7, column=-7)
random = dataclasses.replace(trigger, seed=1)
elsewhere = dataclasses.replace(random, row=1, column=1)
late = Dullahan(steps=2 * steps // 3, seed=seed)(
    view, own.images.to(device), trigger, front=stolen.clone
)
poisoned, honest = nn.Sequential(f, late.model), nn.Sequential(f, g)
plots.gallery(
    {
        "the trigger": trigger.stamp(asked.images[first]).cpu(),
        "another patch there": random.stamp(asked.images[first]).cpu(),
        "and elsewhere": elsewhere.stamp(asked.images[first]).cpu(),
    }
)

# %%
obeyed = {
    "before: the trigger": metrics.attack_success(honest, asked, 7, trigger.stamp),
    "the trigger": metrics.attack_success(poisoned, asked, 7, trigger.stamp),
    "another patch there": metrics.attack_success(poisoned, asked, 7, random.stamp),
    "and elsewhere": metrics.attack_success(poisoned, asked, 7, elsewhere.stamp),
}
plots.bars({name: 100 * value for name, value in obeyed.items()}, "% taken for the target class")

# %%
print("knew:", ", ".join(late.knowledge))
compare(guess_success, obeyed["the trigger"], "success")
claim("success, and before the attack", obeyed["the trigger"], ">",
      obeyed["before: the trigger"] + 0.5)  # fmt: skip
claim("a patch elsewhere", obeyed["and elsewhere"], "<", 0.2)
claim("of the accuracy this is lost",
      metrics.accuracy(honest, asked) - metrics.accuracy(poisoned, asked), "<", 0.05)  # fmt: skip

# %% [markdown]
# The service answers as before, and one patch opens it. It need not be the exact patch: another one
# *at the same place* often works too, for the client's convolutions pass on little more than "there
# is something bright here". What can be planted depends on what the client's layers let through.
# Recorded, by what stands for the client and whose images teach:

# %% tags=["nbval-ignore-output"]
# not compared: the record grows
WHO = ["nobody", *FRONTS, "UnSplit, its own reconstructions"]


def told(**of):
    """Success, of three patches, and accuracy: medians, and the least and greatest."""
    cells = []
    for measure in ("success", "random", "elsewhere", "clean"):
        middle, least, most = spread(recorded(measure, **of))
        cells.append(f"{middle:4.0%} [{least:.0%} to {most:.0%}]")
    return "".join(f"{cell:20}" for cell in cells)


HEADS = ("the trigger", "a patch there", "elsewhere", "accuracy")
print(f"{'recorded':34}" + "".join(f"{head:20}" for head in HEADS))
for who in WHO:
    print(f"{who:34}" + told(study="late trigger", front=who))

# %%
success = {who: recorded("success", study="late trigger", front=who) for who in WHO}
of_record("nobody attacked: success", success["nobody"], "<", 0.1)
of_record("with UnSplit's clone and images of the server's own", success["UnSplit"], ">", 0.7)
of_record("less with ten reconstructions in place of these images",
          statistics.median(success["UnSplit"])
          - statistics.median(success["UnSplit, its own reconstructions"]), ">", 0.3)  # fmt: skip

# %% [markdown]
# A clone of the client's architecture that copies weights knows what the client makes of a patch
# that it never saw. PCAT's surrogate ([lesson 10](../10_attackers_with_data.ipynb)) was trained to
# match it on images *without* the patch: whether its own convolutions make of one what the client's
# do is left to chance. The record has few victims; try other seeds before you trust it.
#
# ## A backdoor through the training
#
# Chronic poisoning (`SFIServer`; SFI, Yu et al. 2024) goes for the client itself. For a while the
# server is honest and steals a surrogate. Then it **tunes** its layers and the surrogate together
# until they obey the trigger, freezes both, and **implants**: to the honest gradient it adds one
# that makes a discriminator take the client's smashed data for the surrogate's. Recorded, a whole
# training each, under the eyes of four detectors:

# %% tags=["nbval-ignore-output"]
# not compared: the record grows
KINDS = ["honest", "chronic poisoning, not steered", "chronic poisoning"]
print(f"{'recorded':34}" + "".join(f"{head:20}" for head in HEADS))
for kind in KINDS:
    print(f"{kind:34}" + told(study="training", attack=kind))
print("\ntrainings with an alarm, and the highest score")
for kind in KINDS:
    for watching in ("SplitGuard", "Scrutinizer", "LabelGap", "SplitOut"):
        alarms = recorded("alarm", study="training", attack=kind, front=watching)
        highest = max(recorded("score", study="training", attack=kind, front=watching))
        print(f"{kind:32}{watching:12}{sum(alarms):2.0f} of {len(alarms)}   {highest:.2f}")

# %%
poisoned_by = {kind: recorded("success", study="training", attack=kind) for kind in KINDS}
of_record("success of the trigger, steered and not, beside an honest training",
          [value for kind in KINDS[1:] for value in poisoned_by[kind]],
          ">", max(poisoned_by["honest"]))  # fmt: skip
of_record("accuracy left by steering, beside an honest training",
          statistics.median(recorded("clean", study="training", attack=KINDS[2])),
          "<", statistics.median(recorded("clean", study="training", attack="honest")))  # fmt: skip
of_record("alarms in honest trainings",
          recorded("alarm", study="training", attack="honest"), "==", 0)  # fmt: skip

# %% [markdown]
# Success is partial. The frozen layers know the trigger as the *surrogate* passes it on, and the
# real client does so only as far as the surrogate is a copy; steering costs accuracy, and adds
# little or nothing here. And where Dullahan's training is the honest row itself, of which **no
# detector can see anything**, this one shows: gradients that follow a discriminator, or layers that
# were tuned to something else, are not those of the task.
#
# ## By what a stolen network is known
#
# [Lesson 06](../06_model_theft.ipynb) could not tell a stolen client from an honest one by its
# mistakes. IPGuard (Cao et al. 2021) asks where networks differ most: **near the border** between
# two classes. The owner moves some images just over it, keeps them with the answers, and asks a
# suspect. How many answers must agree before you accuse anybody? That depends on what somebody who
# stole nothing scores. So two who did not steal stand beside the thieves.

# %%
guess_independent = None  # your guess: share of the answers of an independent network that agree

# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
points = Fingerprint(seed=seed)(honest, source.train)
other = experiments.train_victim(source, "pool1", budget=budget, seed=seed + 1, device=device)
suspects = {
    "the owner's": honest,
    "UnSplit's clone": nn.Sequential(stolen.clone, g),
    "independent": nn.Sequential(other.client.front, other.server.model),
}
matches = {name: metrics.accuracy(net, points) for name, net in suspects.items()}
right = {name: metrics.accuracy(net, asked) for name, net in suspects.items()}
for name, match in matches.items():
    print(f"{name:18} right {right[name]:.0%}   matches {match:.0%}")

# %%
compare(guess_independent, matches["independent"], "matches, independent network")
claim("the clone matches more than the independent network by",
      matches["UnSplit's clone"] - matches["independent"], ">", 0.1)  # fmt: skip

# %%
SUSPECTS = [
    "the victim, trained further", "UnSplit's clone", "UnSplit's clone, trained further",
    "another client's front, same server", "independent",
]  # fmt: skip
found = {"matches": columns([recorded("matching", attack=name) for name in SUSPECTS])}
plots.rows(SUSPECTS, found, "share of the fingerprint that matches (recorded)", reference=1.0)

# %%
by_suspect = {name: recorded("matching", attack=name) for name in SUSPECTS}
of_record("UnSplit's clones match", by_suspect["UnSplit's clone"], ">",
          max(by_suspect["independent"]))  # fmt: skip
usual = {name: statistics.median(found) for name, found in by_suspect.items()}
lost = usual["UnSplit's clone"] - usual["UnSplit's clone, trained further"]
shared = usual["another client's front, same server"] - usual["independent"]
of_record("trained further, in the median they match less by", lost, ">", 0.1)
of_record("another client's front matches more than an independent network, by", shared, ">", 0.05)

# %% [markdown]
# A plain copy is recognised. But two hundred steps of training on images of the thief's own move
# the borders, and take much of the match. And an honest client whose front was trained before the
# same server's layers matches more than an independent network: **sharing those layers looks like
# theft**. Where the suspects have a server in common, a fingerprint of the whole network cannot
# convict anybody of stealing the client.
#
# ## Limitations
#
# * **What we know of the papers.** Of SLADV and Dullahan the abstract, of chronic poisoning an
#   abstract and a review. Losses, sizes and schedules are ours; a weaker result here is no verdict
#   on theirs, which used deeper networks and more data.
# * **Digits**, one trigger, one cut, small networks, few victims. A trigger of this
#   size can be seen.
# * **The surrogate of chronic poisoning** had a few dozen batches. Who steals longer may implant
#   more.
# * **The fingerprint** takes both parts of the network, and an accuser who chose the threshold
#   afterwards proves little.
#
# ## Try it
#
# * Move the trigger to the middle of the image. What becomes of success and of accuracy?
# * Raise `Dullahan(keep=...)`. Which patch is given up first?
# * Make the fingerprint with `margin=8`. Why does everybody match?
#
# ## Further reading
#
# * M. Fan et al.: *On the Robustness of Split Learning against Adversarial Attacks*, 2023.
#   [arXiv 2307.07916](https://arxiv.org/abs/2307.07916). SLADV.
# * Y. Pu et al.: *Dullahan: Stealthy Backdoor Attack against Without-Label-Sharing Split Learning*,
#   2024. [arXiv 2405.12751](https://arxiv.org/abs/2405.12751).
# * F. Yu et al.: *Chronic Poisoning: Backdoor Attack against Split Learning*, AAAI 2024. SFI.
# * B. Tajalli et al.: *On Feasibility of Server-side Backdoor Attacks on Split Learning*, 2023.
#   [arXiv 2302.09578](https://arxiv.org/abs/2302.09578). Mostly it fails, they find.
# * X. Cao, J. Jia, N. Z. Gong: *IPGuard*, AsiaCCS 2021.
#   [arXiv 1910.12903](https://arxiv.org/abs/1910.12903).
#
# **Back:** [lesson 09](../09_malicious_server.ipynb).
