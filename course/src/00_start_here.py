# ---
# jupyter:
#   sltools:
#     minutes: 20
#     alternative: {cut: conv1}
# ---

# %% [markdown]
# # Start here
#
# A clinic trains a network with a vendor's server, and has been promised that no image leaves the
# house. Is a patient's image safe then?
#
# After this lesson you have watched a server rebuild ten private images from numbers that were
# thought to hide them, and you know how the course works.
#
# **Objectives.** You can
#
# * run a lesson, change its settings and read its figures;
# * say what you may attack, and what you may not;
# * carry out an attack on split learning, and judge the result beside baselines;
# * choose the lesson you need next.
#
# **Prerequisites.** PyTorch: you have written a training loop. No security.
#
# **Time.** About 20 minutes (estimated). The first attack comes after five.

# %% [markdown]
# ## How the course works
#
# * **A lesson is a notebook.** Run its cells from top to bottom with Shift+Enter. The outputs you
#   see at first are ours. Yours replace them, and may differ in the last digits.
# * **One cell holds the settings** (the data set, the cut, the budget, the seed, the device).
#   Everything below it follows them. Numbers in the text are printed by cells, so they stay true
#   when you change something.
# * **Guess first.** Before a result a cell asks what you expect. Nobody grades it; a guess that was
#   wrong is what one remembers. *Kernel > Restart Kernel and Clear Outputs of All Cells* hides our
#   results until you have yours.
# * **`budget` says how much to compute:** "tiny" only shows that everything runs, "quick" is for a
#   laptop and takes less than a minute, "full" trains as long as the original paper did and
#   attacks for longer.
# * **Some figures have sliders.** All their states are computed beforehand, so you can play. A
#   sentence below each says what you would have seen, in case you cannot use it.
# * **Nothing leaves your machine.** The digits ship with scikit-learn. Another data set is
#   downloaded once, when you ask for it.
#
# You can also run a lesson without a browser: `sltools run 04 -p seed=1`.

# %% [markdown]
# ## Is this machine ready?
#
# The next cell looks, tries a short computation, and says how long the lessons will compute on this
# machine. If it prints a table, you can go on. A package that is "missing" is one that the lessons
# need: install the course again as its README says.

# %% tags=["nbval-ignore-output"]
# not compared: every machine is another one
from sltools import doctor

for name, version in doctor.versions().items():
    if name != "system":
        print(f"{name:14} {version}")
for name, what in doctor.devices().items():
    print(f"device {name:7} {what}")
for name, place in doctor.data_sets().items():
    ready = place.startswith(("not ", "inside"))
    print(f"data {name:14} {place if ready else 'found on this machine'}")
for name, seconds in doctor.predicted_seconds(doctor.calibrate()).items():
    print(f"lesson {name:26} about {seconds:.0f} s to compute here")

# %% [markdown]
# ## What you may attack
#
# **Only systems that you own, or that their owner has allowed you to test**, best in writing.
# Rebuilding images that a system was built to protect is an attack on it, and on the people in the
# images. In most countries it is an offence without permission, however easy it was.
#
# In this course you are on safe ground. Both parties run inside your own process, so you attack
# yourself. All data are public. When we call an image *private*, we mean: in this experiment the
# attacker must not see it. The library takes that literally: an attack is handed what the attacker
# would have received, and asking for more raises an error.
#
# Should you find a weakness like these in somebody's product, tell them first and give them time.
#
# Why teach attacks at all? Because split learning is offered as a way to protect data, and whether
# it does cannot be settled by hoping.

# %% [markdown]
# ## Settings

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist, fashion_mnist, cifar10
cut: str = "pool1"  # the stage after which the network is cut
budget: str = "quick"  # one of: tiny, quick, full
seed: int = 0  # changes victim, clone and data order together, each from a stream of its own
device: str = "cpu"  # one of: cpu, cuda

# %% [markdown]
# ## The scene
#
# A **client**, our clinic, has images that must not leave its house; digits stand in for what its
# scanner sees. A **server**, the vendor's, has the computing power. They
# train one network together by **split learning**: the network is cut in two. The client computes
# the first layers and sends their output, the **smashed data** $z$. The server computes the rest.
# Not a single image is sent.
#
# Here the two have finished their training. Now the client wants ten more images classified.

# %%
import math
import statistics

import torch

from sltools import data, experiments, metrics, plots, seeds, widgets
from sltools.attacks import UnSplit
from sltools.claims import Claims, compare

claim = Claims((dataset, cut, budget, seed) == ("digits", "pool1", "quick", 0))
source = data.load(dataset)
session = experiments.train_victim(source, cut, budget=budget, seed=seed, device=device)
print("the client computes:", ", ".join(name for name, _ in session.client.front.named_children()))
print("the server computes:", ", ".join(name for name, _ in session.server.model.named_children()))

# %% [markdown]
# Ten test images, one of each class, in an order that you cannot guess:

# %%
order = torch.randperm(len(source.classes), generator=seeds.generator(seed, "targets"))
private = source.test.first_per_class()[order].to(device)

view = session.observe(private.images)
print(view)
for name, tensor in {"one image": private.images[0], "its smashed data": view.smashed[0]}.items():
    print(f"{name}: {tuple(tensor.shape)}, {tensor.numel():,} numbers")

# %% [markdown]
# `view` is all that the server may look at. Look with it: each row below belongs to one image, the
# first six of the ten. The image itself is covered. **Which is which?** Put six guesses in the cell
# after the picture. Nobody grades them.

# %%
covered = torch.full_like(private.images, 0.5)
plots.smashed(covered.cpu(), view.smashed.cpu())

# %%
guess_images = None  # your guess: six names, such as ["3", "7", ...]

# %% [markdown]
# With an early cut you probably recognised some of them, for a convolution leaves things where
# they are. ([Lesson 03](03_smashed_data.ipynb) measures how much shows, and at which cut.)
# Now for the images themselves.

# %% [markdown]
# ## The attack
#
# The server does not know the client's weights, so it cannot run the layers backwards. It does
# something bolder. It starts with grey images and with a **clone**: a network of the client's
# shape with random weights. It sends the grey images through the clone and compares the result
# with the smashed data it received. Then it changes both, a little at a time, **the images and the
# clone's weights**, until the two agree. The attack is called *UnSplit* and
# [lesson 04](04_inversion_and_stealing.ipynb) takes it apart. For now, let it run.

# %%
attack = UnSplit(steps=experiments.STEPS[budget], seed=seed, **experiments.priors(dataset, budget))
result = attack(view)
print(attack)

# %% tags=["nbval-ignore-output"]
# not compared: it is a time
print(f"{len(result.inputs)} images in {result.seconds:.1f} s")

# %% [markdown]
# It kept copies on the way. The slider stands at the last one: pull it back to the first, and push
# it forward again slowly.

# %%
steps = result.snapshot_steps.tolist()
originals = private.images.cpu()
names = [source.classes[label] for label in private.labels]


def draw(snapshot):
    found = {f"step {steps[snapshot]:,}": result.snapshots[snapshot]}
    return plots.reconstructions(originals, found, names)


last = len(steps) - 1
widgets.show(draw, {"snapshot": last}, snapshot=(0, last))

# %% [markdown]
# Without the slider, here is one image on its way, from plain grey to the last step. The original
# stands at the end, and under each state its distance from the original.

# %%
plots.over_time(result.snapshots, steps, originals)

# %%
compare(guess_images, names[:6], "the six images")

# %% [markdown]
# ## Is that a good result?
#
# A number alone says nothing. We use the **mean squared error** (MSE) of the pixels, on a scale
# from 0 (black) to 1 (white). And we put beside it what somebody would score who saw **no smashed
# data at all**:
#
# * a **blank image**: all black;
# * the **mean image**: the average of the training images, the same guess for each of the ten.
#
# An attack that is clearly better than these has learnt something. The reverse does not hold:
# pictures that are too pale or too noisy can have the larger error, and show plainly what is in
# them (lessons 04 and 05 meet such). But a guess is the same for all ten, so nobody can tell by it
# which is which. Hence our condition, in all lessons: an attack **has learnt nothing** only if its
# error is no smaller than the mean image's *and* its pictures cannot be matched with the true
# images more often than by chance.
#
# Which share of the mean image's error has the attack left?

# %%
guess_share = None  # your guess: 0 is perfect, 1 no better than the mean image

# %%
mean_image = source.train.images.mean(0)
guesses = {
    "UnSplit": result.inputs.cpu(),
    "blank image": torch.zeros_like(originals),
    "mean image": mean_image.expand_as(originals),
}
plots.reconstructions(originals, guesses, names)

# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
report = metrics.score_inversion(result.inputs.cpu(), originals, mean_image)
print(report)

# %% [markdown]
# How to read the table: *MSE* is the median of the ten images and *worst* the largest. *Aligned*
# is the MSE after the best change of brightness and contrast. PSNR is the MSE in decibels, and
# SSIM a similarity that looks at structure, 1 for equal images. *Negatives* are images that came
# out inverted. Lesson 04 explains why anything could.

# %%
scores = {name: metrics.mse(images, originals).tolist() for name, images in guesses.items()}
mine, blank, average = (statistics.median(values) for values in scores.values())
assert all(math.isfinite(value) for value in (mine, blank, average))
claim("median MSE of the attack", mine, "<", 0.003)
claim("as a share of the mean image's", mine / average, "<", 0.1)
claim("and the mean image's, beside the blank image's", average, "<", blank)
compare(guess_share, mine / average, "share of the mean image's error")

# %% [markdown]
# ## What did the attacker know?
#
# Every result lists what was read from the view to get it:

# %%
for item in result.knowledge:
    print("*", item)

# %% [markdown]
# That is all. It had **no image** from the client or from anywhere else, **no label**, **no
# gradient** and **no weight** of the client. It changed nothing in the protocol, so the client
# could not notice. In fairness, three things helped it. It knew the *shape* of the client's layers
# (the assumption of the paper, and often true: the server wrote the software). The images are
# small and simple, the digits even more so than they look: they are images of 8 by 8 pixels,
# enlarged. And the client had a shallow part of the network and no defence. Change `cut` to
# "fc1" in the settings, run everything again, and you will see an attack that fails. Where it
# works and where it does not is what the course is about.

# %% [markdown]
# **The clinic** can answer: with a shallow cut and no defence, the vendor's server can rebuild the
# patient's image from what it is sent. When it can, how one would notice and what helps, the
# lessons answer one by one.
#
# ## The lessons
#
# * [01 Split learning](01_split_learning.ipynb): how it works, by hand and by library, and what
#   crosses the wire.
# * [02 Threat model](02_threat_model.ipynb): who sees what, and what an attacker may be granted.
# * [03 Smashed data](03_smashed_data.ipynb): how much of an image is left in them, at which cut.
# * [04 Inversion and stealing](04_inversion_and_stealing.ipynb): attack 1, for the private images
#   and a copy of the client.
# * [05 How deep?](05_how_deep.ipynb): what a deeper cut protects, and from whom.
# * [06 Model theft](06_model_theft.ipynb): what the copy is worth to a thief.
# * [07 Label inference](07_label_inference.ipynb): attack 2, for the labels that a client keeps to
#   itself.
# * [08 Defences](08_defences.ipynb): what they promise, cost, and only seem to do.
# * [09 The malicious server](09_malicious_server.ipynb): a server that breaks the rules, and what a
#   client can notice.
# * [10 Attackers with data](10_attackers_with_data.ipynb): a server that has images of its own, and
#   what depth is worth then.
# * [11 Two machines](11_two_machines.ipynb): who listens on the way, and what many clients of one
#   server change.
# * [15 Audit](15_audit.ipynb): what a split of your own gives away, and how to report it.
#
# Take them in this order. If you know split learning, begin with 02. If you are in a hurry, read
# 02 and 04. What the field knows beyond the lessons is on
# [the field map](appendix/00_field_map.ipynb): works on attacks and defences, a card each.
#
# Each attack lesson is built the same way: a **threat card** that says who attacks and with what,
# the idea, the mathematics, the code, the experiment, numbers beside baselines, **limitations**,
# things to try, and **review questions** whose answers are folded.
#
# ## Further reading
#
# * E. Erdoğan, A. Küpçü, A. E. Çiçek: *UnSplit: Data-Oblivious Model Inversion, Model Stealing, and
#   Label Inference Attacks Against Split Learning*, WPES 2022.
#   [arXiv 2108.09033](https://arxiv.org/abs/2108.09033). The paper this course is about.
#
# **Next:** [lesson 01](01_split_learning.ipynb), split learning by hand.
