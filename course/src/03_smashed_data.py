# ---
# jupyter:
#   sltools:
#     minutes: 60
#     alternative: {cut: conv2}
# ---

# %% [markdown]
# # What smashed data give away
#
# The clinic's smashed data look like blots after a few layers, and the vendor says that nobody
# could see a patient in them. Is the patient's image gone, or only unreadable?
#
# After this lesson you can say, for any cut of a network, how much of an image the smashed data
# still hold: by looking, by attacking, and by counting.
#
# **Objectives.** You can
#
# * show what the activations at a cut look like, and measure how much they look like the image;
# * recover images from smashed data when the weights of the client are known, in ten lines;
# * score a recovery beside a blank image and a mean image, and draw it over the depth of the cut;
# * count equations and unknowns for a cut, for known and for unknown weights;
# * explain what ReLU and pooling throw away, and why the count alone decides nothing.
#
# **Prerequisites.** [Lesson 01](01_split_learning.ipynb) and [02](02_threat_model.ipynb). Ranks and
# equations from linear algebra.
#
# **Time.** About 60 minutes (estimated).

# %% [markdown]
# ## Threat card: inversion with known weights
#
# | | |
# |---|---|
# | **Who** | an honest-but-curious server that has got hold of the client's trained weights |
# | **Sees** | the smashed data $z$ of an inference, the architecture, and those weights |
# | **May change** | nothing: it follows the protocol and computes at home |
# | **Wants** | the private images |
# | **Does *not* need** | labels, gradients, training data, its own half of the network |
# | **Simulated here** | the weights: split learning never sends them, they are *granted* by name |
# | **Stops working** | where the layers before the cut threw away more than a prior can fill in |
# | **Defence** | sending less: a later cut, fewer or noisier numbers |
#
# The weights may lie in an app that can be unpacked, or with a second client.
#
# Why give the attacker so much? To separate two questions. *Is the image still in $z$?* asks about
# layers. *Can someone without the weights get it out?* asks about secrets, in the next lesson.

# %% [markdown]
# ## Settings

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist, fashion_mnist, cifar10
cut: str = "pool1"  # the stage after which the network is cut
budget: str = "quick"  # one of: tiny, quick, full
seed: int = 0  # changes victim, clone and data order together, each from a stream of its own
device: str = "cpu"  # one of: cpu, cuda

# %% [markdown]
# The victim is trained by split learning, cut after `cut`. The private images are one test image
# of each class, none of the training set.

# %%
import torch

from sltools import data, experiments, metrics, models, plots, protocol
from sltools.claims import Claims, compare

as_shown = (dataset, cut, budget, seed, device) == ("digits", "pool1", "quick", 0, "cpu")


claim = Claims(as_shown)
source = data.load(dataset)
session = experiments.train_victim(source, cut, budget=budget, seed=seed, device=device)
private = source.test.first_per_class().to(device)
images, mean_image = private.images, source.train.images.mean(0).to(device)
print(f"private: {private}")
claim("the victim's accuracy on test images", session.accuracy(source.test), ">", 0.9)

# %% [markdown]
# A trained network can be cut again elsewhere: `protocol.recut` hands the same layers, with the
# same weights, to two new parties. So one training serves all cuts that we compare.

# %%
stages = models.stages(session.client.front) + models.stages(session.server.model)
compared = {"conv1", "pool1", "conv2", "pool2", "pool3", "fc1", "fc2", cut}
cuts = [stage for stage in stages[:-1] if stage in compared]  # in the order of the network
sessions = {at: protocol.recut(session, at) for at in cuts}
views = {at: sessions[at].observe(images) for at in cuts}

print("stages:", ", ".join(stages))
print("cuts to compare:", ", ".join(cuts))

# %% [markdown]
# ## By looking
#
# The original is on the left, and beside it the first channels of what the server receives. A
# channel is what one filter of the convolution sees, and a picture too.

# %%
plots.smashed(images[:4], views[cut].smashed[:4])

# %% [markdown]
# Choose a cut and watch the picture dissolve.

# %%
from sltools import widgets

received = {at: views[at].smashed for at in cuts}
with_maps = [at for at in cuts if received[at].ndim == 4]


def draw(stage):
    return plots.smashed(images[:4], received[stage][:4])


widgets.show(draw, start={"stage": with_maps[-1]}, stage=cuts)

# %% [markdown]
# Without the widget: up to the first pooling most channels are the image again, as an outline or a
# negative. Two convolutions in, the maps are small blots. A linear layer leaves a stripe of
# numbers.
#
# "It looks like the image" can be measured, crudely, by a correlation. (No people were asked.)
# Shrink the images to the size of the maps. Smashed datum $i$ looks like image $j$ as much as its
# best channel $c$ correlates with the small image:
#
# $$\text{likeness}(i, j) =
# \max_c\, \bigl|\operatorname{corr}\bigl(z_{i,c},\ \operatorname{shrink}(x_j)\bigr)\bigr| .$$
#
# To say which of 50 images a smashed datum came from, name the one most like it. Where that is
# right for more than half, we call the cut **readable**.

# %%
from torch.nn.functional import adaptive_avg_pool2d, normalize


def outline(maps):
    """Centre maps (..., H, W), flatten them and scale them to length 1."""
    flat = maps.flatten(-2).double()
    return normalize(flat - flat.mean(-1, keepdim=True), dim=-1)


def named_right(smashed, images):
    """Share of smashed data (N, C, h, w) that look most like their own image of N, in [0, 1]."""
    small = adaptive_avg_pool2d(images, smashed.shape[-2:]).mean(1)
    likeness = torch.einsum("icp,jp->ijc", outline(smashed), outline(small)).abs().amax(-1)
    own = torch.arange(len(images), device=images.device)
    return (likeness.argmax(1) == own).double().mean().item()


line_up = source.test.first_per_class(5).images.to(device)
by_likeness = {at: named_right(sessions[at].observe(line_up).smashed, line_up) for at in with_maps}

# %% tags=["nbval-ignore-output"]
# not compared: a share may differ by an image or two between machines
for at, share in by_likeness.items():
    print(f"cut after {at:6} {share:6.1%} of {len(line_up)} named right")
print(f"{'chance':16} {1 / len(line_up):6.1%}")

# %%
readable = [at for at in by_likeness if by_likeness[at] > 0.5]
print("readable, more than half named right, when cut after:", ", ".join(readable) or "none")

# %% [markdown]
# A designer who goes by likeness would cut after the last readable stage and call it private. Why
# is that wrong?

# %% [markdown]
# ## By attacking
#
# ### The idea
#
# The attacker knows the client's layers $f$ and receives $z = f(x)$. So it guesses an image
# $\tilde x$, computes what the client would have sent for it, and moves the guess until the two
# agree:
#
# $$\tilde x = \arg\min_{0 \le x \le 1}\
# \underbrace{\frac{\operatorname{mean}\Bigl[\bigl(f(x) - z\bigr)^2\Bigr]}{\operatorname{var} z}}_{
# \text{feature loss}} \;+\; \lambda\,\mathrm{TV}(x) .$$
#
# The feature loss asks for the right smashed data. Dividing by their variance makes it mean the
# same at every cut: 0 is perfect, 1 is as bad as sending a constant. TV is the **total variation**,
# the mean squared difference of neighbouring pixels. It is a **prior**: it prefers smooth images,
# and so decides where the smashed data leave a choice. The range of a pixel, $0 \le x \le 1$, is a
# prior too.
#
# ### The whole attack
#
# Without the total variation, this is all of it. (`decode` turns the unknowns into images. Here
# they are the pixels themselves.)


# %%
def invert(front, smashed, start, decode=lambda unknowns: unknowns, steps=300):
    """Search the unknowns whose decoded images have these smashed data, beginning at `start`."""
    unknowns = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([unknowns], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        feature_loss = (front(decode(unknowns)) - smashed).square().mean() / smashed.var()
        unknowns.grad = torch.autograd.grad(feature_loss, unknowns)[0]
        optimiser.step()
        schedule.step()
        unknowns.data.clamp_(0, 1)
    return decode(unknowns).detach(), feature_loss.item()


# %% [markdown]
# It needs `front`, the client's layers with their weights. An ordinary view of the server has no
# such thing:

# %%
from sltools.errors import NotObservable

try:
    views[cut].client_model
except NotObservable as refusal:
    print("NotObservable:", refusal)

# %% [markdown]
# So the knowledge must be granted, by name. The view then says what it holds beyond the wire, and
# an attack's result will report that it used it.

# %%
granted = sessions[cut].observe(images, grants=["client_model"])
print(granted)

steps = {"tiny": 50, "quick": 300, "full": 1000}[budget]
grey = torch.full_like(images, 0.5)
found, feature_loss = invert(granted.client_model, granted.smashed, grey, steps=steps)
plots.reconstructions(images, {f"from {cut}": found}, source.classes)


# %%
def median(values):
    return values.double().quantile(0.5).item()


def median_mse(guess):
    return median(metrics.mse(guess.expand_as(images), images))


blind = median_mse(mean_image)
claim("the median error, as a share of the mean image's", median_mse(found) / blind, "<", 0.1)

# %% [markdown]
# ### The library's version
#
# `attacks.KnownWeightsInversion` is the same search with the total variation, snapshots and a
# record of its settings and its knowledge. It is called with a view, never with a victim.

# %%
from sltools import attacks

attack = attacks.KnownWeightsInversion(
    steps={"tiny": 25, "quick": 500, "full": 1500}[budget],
    input_lr=0.1,
    tv=0.01,
    l1=0.0,
    l2=0.0,
    seed=seed,
)
results = {at: attack(sessions[at].observe(images, grants=["client_model"])) for at in cuts}
print("knowledge used:", ", ".join(results[cut].knowledge))
assert all(result.inputs.isfinite().all() for result in results.values())

# %% [markdown]
# ### Scores, beside those of somebody who knows nothing
#
# The table puts the attack beside two guesses that use no smashed data: a **blank image** (all
# zeros), and the **mean image** of the training set.
#
# * **MSE**, the mean squared error of the pixels: raw, and for the worst image.
# * **aligned**: the MSE after each image's best change of contrast and brightness. It asks for the
#   shape only. Nobody but us, who know the truth, can align like that.
# * **PSNR**, $10 \log_{10}(1/\text{MSE})$: the same error in decibels, more is better.
# * **SSIM**, structural similarity: 1 is a perfect copy, about 0 is unrelated. It goes by local
#   contrast, as the eye does.
# * **negatives**: the share that came out as negatives, black for white.

# %% tags=["nbval-ignore-output"]
# not compared: the digits of an optimisation differ between machines
report = metrics.score_inversion(results[cut].inputs, images, mean_image)
print(f"cut after {cut}")
print(report)

# %%
raw = {at: metrics.mse(results[at].inputs, images) for at in cuts}
claim(f"cut after {cut}, the worst raw MSE", raw[cut].max(), "<", 0.0003)
claim("  and the median, as a share of the mean image's", median(raw[cut]) / blind, "<", 0.002)

# %% [markdown]
# ## The deeper, the harder
#
# The same attack, with the same settings, at every cut. Row by row the client computes more before
# it sends. What is the last cut at which it gets below a fifth of the mean image's error?

# %%
guess_cut = None  # your guess: a stage, such as "conv1"

# %%
plots.reconstructions(images, {at: results[at].inputs for at in cuts}, source.classes)

# %% [markdown]
# Compare these rows with the readable cuts. **Unreadable is not private.**

# %%
unreadable = [at for at in by_likeness if at not in readable]
recovered = [at for at in unreadable if median(raw[at]) < blind / 5]
print("not readable:", ", ".join(unreadable) or "none")
print("of these, recovered to a fifth of the mean image's error:", ", ".join(recovered) or "none")
assert recovered == ["conv2", "pool2"] or not as_shown
below = [at for at in cuts if median(raw[at]) < blind / 5]
compare(
    guess_cut, below[-1] if below else "none", "last cut below a fifth of the mean image's error"
)

# %% [markdown]
# The depth curve shows median and range over the images, with the two guesses as grey lines. Above
# the mean image's line, has nothing been learnt? By the condition of
# [lesson 00](00_start_here.ipynb), only if the pictures cannot be **matched** with their images
# either. The last line below tells.
#
# And this is *one* short search. The third grey line (digits and MNIST) is the course's
# **known-weights bound**, from the study of [lesson 05](05_how_deep.ipynb): the best of up to four
# searches, the median of three victims. No strict bound, only the best found: at the first two cuts
# this search does as well.


# %%
import csv

from sltools import lessons

recorded = lessons.course() / "results"
study = {}  # (data set, cut) -> victim -> known-weights bound, as a share of the mean image's error
with (recorded / "depth.csv").open(newline="", encoding="utf-8") as file:
    for row in csv.DictReader(file):
        share = float(row["known_weights_mse"]) / float(row["mean_image_mse"])
        study.setdefault((row["dataset"], row["stage"]), {})[row["victim"]] = share


def bound(data_set, at):
    """The known-weights bound of each victim, as a share of the mean image's error."""
    return torch.tensor(list(study[data_set, at].values()))


# %%
def spread(values):
    """Median, least and greatest of the values at each cut: three lists."""
    at_cuts = [values[at] for at in cuts]
    return [
        [median(v) for v in at_cuts],
        [v.min().item() for v in at_cuts],
        [v.max().item() for v in at_cuts],
    ]


scores = {at: metrics.score_images(results[at].inputs, images) for at in cuts}
guesses = {"blank image": torch.zeros_like(images), "mean image": mean_image.expand_as(images)}
grey_lines = {name: median_mse(guess) for name, guess in guesses.items()}
if all((dataset, at) in study for at in cuts):
    grey_lines["known weights (study)"] = [median(bound(dataset, at)) * blind for at in cuts]
    beside_bound = [median(raw[at]) / (median(bound(dataset, at)) * blind) for at in cuts[:2]]
    claim("at the first two cuts this search leaves of the bound", beside_bound, "<", 1.3)
aligned = {at: scores[at].aligned_mse for at in cuts}
plots.depth_curve(
    cuts,
    {"raw MSE": spread(raw), "aligned MSE": spread(aligned)},
    "error",
    log=True,
    baselines=grey_lines,
)

# %%
first, last = cuts[0], cuts[-1]
claim(f"cut after {first}, SSIM of every image", scores[first].ssim, ">", 0.99)
growth = median(raw[last]) / median(raw[first])
claim(f"from {first} to {last} the median raw MSE grows by a factor of", growth, ">", 10_000)
assert all((aligned[at] <= raw[at] + 1e-6).all() for at in cuts)
worse = [at for at in cuts if median(raw[at]) > blind]
print("the median raw MSE is above the mean image's when cut after:", ", ".join(worse) or "nowhere")
if worse:
    matched = [named_right(results[at].inputs, images) for at in worse]
    claim("and yet this share of the pictures match", matched, ">", 0.5)

# %% [markdown]
# Raw and aligned error stay close: known weights tell how bright an image must be. Not so in
# [lesson 04](04_inversion_and_stealing.ipynb), where they are unknown.

# %% [markdown]
# ## By counting
#
# Why does it get harder? Start with the plainest argument there is. Each number sent is one
# **equation** about the image. Each pixel is one **unknown**. With fewer equations than unknowns,
# many images may fit.
#
# If the attacker does not know the weights, every weight of the client is one more unknown. But the
# weights are the same for all images. Let $|z|$, $|x|$ and $|W|$ be how many numbers are sent,
# pixels sought and weights unknown. With $N$ images that share one copy of the weights (a
# **clone**) the count is
#
# $$\underbrace{N\,|z|}_{\text{equations}} \quad\text{against}\quad
# \underbrace{N\,|x| + |W|}_{\text{unknowns}} .$$
#
# If $|z| > |x|$, each image brings more equations than unknowns, and the surplus pays for the
# weights once $N \ge |W| / (|z| - |x|)$. If $|z| < |x|$, each image makes it worse, and no number
# of images helps.
#
# All three numbers are in the server's view. An attacker can count before it computes.

# %%
import math

pixels = math.prod(images.shape[1:])


def images_needed(equations, weights):
    """Smallest N for which N images have as many equations as unknowns; None if there is none."""
    if equations <= pixels:
        return None
    return max(1, math.ceil(weights / (equations - pixels)))


counts = {}  # cut -> numbers sent, weights before the cut, images needed without the weights
for at in cuts:
    equations, weights = views[at].smashed[0].numel(), views[at].architecture.parameter_count
    counts[at] = equations, weights, images_needed(equations, weights)

print(f"unknown pixels of one image: {pixels:,}\n")
row = "{:8}{:>10}{:>11}{:>9}{:>20}{:>22}{:>15}"
print(row.format("", "", "", "weights", "weights unknown:", "weights unknown:", "images needed"))
print(row.format("cut", "equations", "weights", "known", "1 image", "10 images", "without them"))
for at, (equations, weights, needed) in counts.items():
    known = "enough" if equations >= pixels else "too few"
    balance = [f"{n * equations:,} : {n * pixels + weights:,}" for n in (1, 10)]
    print(row.format(at, f"{equations:,}", f"{weights:,}", known, *balance, needed or "never"))

# %%
alone = [at for at in cuts if counts[at][2] == 1]
together = [at for at in cuts if (counts[at][2] or 0) > 1]
never = [at for at in cuts if counts[at][2] is None]
print("without the weights, one image can be enough:", ", ".join(alone) or "nowhere")
some = ", ".join(f"{at} ({counts[at][2]})" for at in together)
print("several images are needed:", some or "nowhere")
print("no number of images is enough:", ", ".join(never) or "nowhere")

# %% [markdown]
# The columns in the middle are the forecast for the next lesson. The forecast for this one is
# "weights known". It has a point: the errors rise where the equations run out. But they rise before
# that as well, and after it images come back that by this count could not. Two things are wrong
# with it: **not every number is an equation**, and **not every pixel is an unknown**.

# %% [markdown]
# **Try it.** For a linear layer with known weights, $z = W x + b$, no search is needed: enough
# equations can simply be solved. Write it; `weight` is $(|z|, |x|)$, `bias` $(|z|,)$, and `smashed`
# has a row of $|z|$ numbers for each image. If many inputs explain the numbers, return the one of
# least norm; if none does so exactly, the one of least squared error.


# %%
from sltools import exercises


def invert_linear(weight, bias, smashed):
    # Hint: torch.linalg.pinv(weight) undoes the weight in the sense of least squares.
    raise NotImplementedError("your code here")


exercises.check("03.linear", invert_linear)

# %% [markdown]
# ## Not every number is an equation
#
# **ReLU** sends $\max(a, 0)$. A number above zero is an equation, $a = z$. A zero is not; it only
# says $a \le 0$. An inequality narrows the choice, but it does not fix a value.
#
# **Max pooling** sends the largest of four numbers. There is one equation for the winner, and for
# three losers again only an inequality: they were not larger.
#
# How many numbers are exactly zero? A convolution or a linear layer hardly ever gives one; a ReLU
# does it all the time, and pooling keeps a zero only where all four were zero.

# %%
activations, zeros = images, {}  # stage -> share of its activations that are exactly zero
net = torch.nn.Sequential(*session.client.front, *session.server.model)
with torch.no_grad():
    for stage, layer in zip(stages[:-1], net, strict=False):
        before, activations = activations, layer(activations)
        zeros[stage] = (activations == 0).double().mean().item()
        if isinstance(layer, torch.nn.MaxPool2d):
            print(f"{stage}: {activations[0].numel():,} winners of {before[0].numel():,} go on")
plots.bars({stage: share for stage, share in zeros.items() if stage != "flatten"}, "share of zeros")

# %%
rectified = [stage for stage in zeros if stage.startswith("relu")]
dense = [stage for stage in zeros if stage.startswith(("conv", "fc"))]
most_zeros = max(zeros[stage] for stage in dense)
claim("most zeros of a convolution or linear layer, as a share", most_zeros, "<", 0.001)
claim("share of zeros that the last ReLU sends", zeros[rectified[-1]], ">", 0.25)

# %% [markdown]
# **Try it.** What does $z = \max(a, 0)$ say of each activation $a$? Suppose the attacker knows that
# none is below `least`, a negative number. Return two tensors: the least and the greatest value
# that each $a$ can have.


# %%
def unrelu(smashed, least):
    # Hint: torch.where(smashed > 0, ..., ...) chooses between two values, place by place.
    raise NotImplementedError("your code here")


exercises.check("03.relu", unrelu)

# %% [markdown]
# Zeros are not the whole loss: equations can also repeat each other. The honest count asks for the
# **rank**. Change the image a little, in any direction $d$, and the smashed data change by
# $J d$, where
# $J = \partial z / \partial x$ is the matrix of derivatives at this image. The rank of $J$ is the
# number of *independent* equations. Each direction with $J d = 0$ is a change of the image that the
# smashed data do not notice at first.
#
# `torch.func.jvp` computes $J d$ without ever building $J$.

# %%
import copy


def independent(front, image, directions):
    """Count how many of the directions (K, C, H, W) the smashed data of an image can tell apart."""
    front, image = copy.deepcopy(front).double().cpu(), image.double().cpu()

    def push(direction):
        return torch.func.jvp(lambda x: front(x[None]).flatten(), (image,), (direction,))[1]

    pushes = torch.vmap(push, chunk_size=98)(directions.double())  # J d for each d: (K, |z|)
    squares = torch.linalg.eigvalsh(pushes @ pushes.T).clamp(min=0)
    return int((squares.sqrt() > 1e-6 * squares.max().sqrt()).sum())


# %% [markdown]
# We ask about one direction for each pixel. (Of images with more than 28×28 numbers only about a
# square in the middle, as if the attacker knew the rest.) Where two activations of a pooling window
# are equal, as on an even background, there is no derivative. A trace of noise makes them differ.

# %%
from sltools import seeds


def pixel_directions(shape, most=784):
    """One direction for each pixel of the largest central square of at most `most` numbers."""
    channels, height, width = shape
    side = min(height, width, math.isqrt(most // channels))
    top, left = (height - side) // 2, (width - side) // 2
    inside = torch.zeros(shape, dtype=torch.bool)
    inside[:, top : top + side, left : left + side] = True
    return torch.eye(inside.numel())[inside.flatten()].reshape(-1, *shape)


noise = torch.rand(images.shape, generator=seeds.generator(seed, "noise")).to(device)
generic = 0.999 * images + 0.001 * noise
examined = generic[: {"tiny": 1, "quick": 2, "full": 10}[budget]]
directions = pixel_directions(images.shape[1:])

fronts = {at: sessions[at].client.front for at in cuts}  # we know the truth: this is no attack
ranks = {
    at: torch.tensor([independent(fronts[at], image, directions) for image in examined]).double()
    for at in cuts
}
nonzero = {at: (views[at].smashed.flatten(1) != 0).sum(1).double() for at in cuts}
print(f"asked about {len(directions):,} of {pixels:,} pixels, at {len(examined)} image(s)")

# %%
unknowns = len(directions)
sent = {at: torch.tensor([float(counts[at][0])]) for at in cuts}
kinds = {"numbers sent": sent, "not zero": nonzero, "independent": ranks}
plots.depth_curve(
    cuts,
    {kind: spread({at: n[at].clamp(max=unknowns) / unknowns for at in cuts})
     for kind, n in kinds.items()},
    "equations for each pixel, at most 1",
)  # fmt: skip

# %% tags=["nbval-ignore-output"]
# not compared: the weights, and with them the ranks, differ a little between machines
print(f"{'cut':8}{'sent':>8}{'not zero (median)':>20}{'independent (least)':>22}")
for at in cuts:
    print(f"{at:8}{counts[at][0]:8,}{median(nonzero[at]):20,.0f}{ranks[at].min():22,.0f}")

# %%
short = [at for at in cuts if counts[at][0] >= unknowns and (ranks[at] < unknowns).all()]
print("numbers enough, independent ones too few, when cut after:", ", ".join(short) or "none")
claim(f"cut after {first}, pixels determined", ranks[first], "==", unknowns)
claim(f"cut after {last}, independent ones of the numbers sent", ranks[last], "<", counts[last][0])
assert short == ["pool1", "conv2"] or not as_shown

# %% [markdown]
# So enough equations may still leave a choice, because some are zeros and some repeat others. (A
# linear layer after a ReLU sends no zeros, yet cannot bring back what the ReLU dropped.) Do too
# few always leave one?
#
# ### What bounds and black pixels do
#
# A pixel that is black can only rise. If many are, every way to change the image and not $z$ may be
# barred. We try random linear layers, 60 pixels, 36 numbers sent. The images that explain $z$ are
# the polytope $\{x : Wx = z,\ 0 \le x \le 1\}$. Two linear programmes find the least and the
# greatest $d \cdot x$ in it, for a random direction $d$. If they are equal, it is a single point:
# in anything larger, almost every $d$ has a range.
#
# With 6 of the 60 pixels lit and weights of one sign, in which share of the trials is there a
# single image?

# %%
guess_single = None  # your guess, 0 to 1


# %%
import numpy as np
from scipy.optimize import linprog


def only_one(weight, image, direction):
    """Say whether no other image in [0, 1] sends the same numbers through a linear layer."""
    problem = {"A_eq": weight, "b_eq": weight @ image, "bounds": (0, 1)}
    least, negative_greatest = (linprog(s * direction, **problem).fun for s in (1, -1))
    return abs(least + negative_greatest) < 1e-6


draws = np.random.default_rng(seeds.derive(seed, "linear layers"))
trials = {"tiny": 4, "quick": 50, "full": 200}[budget]
single = {}
for kind, signs in {"both signs": draws.standard_normal, "one sign": draws.random}.items():
    for lit in (6, 24, 60):
        single[kind, lit] = 0
        for _ in range(trials):
            image = np.zeros(60)
            image[draws.permutation(60)[:lit]] = draws.random(lit)
            single[kind, lit] += only_one(signs((36, 60)), image, draws.standard_normal(60))
        print(f"weights of {kind}, {lit:2} of 60 pixels not black: a single image explains z "
              f"in {single[kind, lit]} of {trials} trials")  # fmt: skip

# %%
claim("6 pixels, weights of one sign: always", single["one sign", 6], "==", trials)
claim("6 pixels, weights of both signs: in most trials", single["both signs", 6], ">", trials / 2)
claim("60 pixels: never", [single["one sign", 60], single["both signs", 60]], "==", 0)
compare(guess_single, single["one sign", 6] / trials, "share of trials with a single image")

# %% [markdown]
# So the count is **neither necessary nor sufficient**: fewer numbers than pixels can pin down an
# image with a black background. (A white pixel can only fall, and helps as well.) How black it must
# be depends on the layer.
#
# Often a choice remains. Where equations are fewer than pixels, we run the ten-line attack twice,
# with no prior but the range of a pixel: once from grey, once from noise.

# %%
deep = next((at for at in cuts if counts[at][0] < pixels), last)
noise_start = torch.rand(images.shape, generator=seeds.generator(seed, "inputs")).to(device)
front, target = fronts[deep], views[deep].smashed
from_grey, loss_grey = invert(front, target, grey, steps=2 * steps)
from_noise, loss_noise = invert(front, target, noise_start, steps=2 * steps)
print("cut after", deep)
plots.reconstructions(images, {"from grey": from_grey, "from noise": from_noise}, source.classes)

# %%
apart = median((from_grey - from_noise).square().mean((1, 2, 3)))
claim("of the variance of the smashed data both leave", [loss_grey, loss_noise], "<", 5e-5)
claim("yet the two pictures differ by an MSE of", apart, ">", 0.02)

# %% [markdown]
# Different pictures, as good as the same message. What decides is the prior: smoothness, in the
# attack above. A better prior decides better, which brings us to the second mistake of the count.

# %% [markdown]
# ## Not every pixel is an unknown
#
# The images of `digits` have 8×8 pixels, and the course enlarges them. That adds pixels, but no
# information: each new pixel is a weighted mean of old ones. In matrices, $x = R\,s$ with the small
# image $s$ and a fixed matrix $R$, and the number of unknowns is the rank of $R$.

# %%
from torch.nn.functional import interpolate

small = (8, 8)
size = images.shape[-2:]
basis = torch.eye(small[0] * small[1]).reshape(-1, 1, *small)  # one small image for each pixel
enlarged = interpolate(basis, size=size, mode="bilinear")
operator = enlarged.flatten(1).T.double()  # R: a column for each pixel of the small image
true_unknowns = int(torch.linalg.matrix_rank(operator))
print(f"R has {operator.shape[0]} rows, {operator.shape[1]} columns and rank {true_unknowns}")
assert true_unknowns == 64

# %% [markdown]
# The rank equals the number of columns, so enlarging loses nothing and adds nothing. And your data?
# The rank of the matrix of training images counts every direction in which they differ at all. The
# last line says how many principal components explain most of the variance.

# %%
rows = source.train.images[:2000].flatten(1).double()
strengths = torch.linalg.svdvals(rows)
rank = int((strengths > 1e-6 * strengths[0]).sum())  # below is the rounding of float32
energy = torch.linalg.svdvals(rows - rows.mean(0)).square()
explained = energy.cumsum(0) / energy.sum()
components = int((explained < 0.95).sum()) + 1
print(f"{dataset}: {rows.shape[1]:,} pixels, {len(rows):,} training images")
print(f"rank of the data (at most {min(rows.shape):,}): {rank:,}")
print(f"principal components for 95% of the variance: {components:,}")
assert (rank <= true_unknowns and components <= rank) or not as_shown

# %% [markdown]
# So digits are the **easy case**, and flatter the attacker: far fewer unknowns than pixels. Ask for
# the rank again, now only over the directions in which an enlarged image can change.

# %%
channels = images.shape[1]
planes = torch.eye(channels)[:, :, None, None]
small_directions = torch.cat([enlarged * plane for plane in planes])  # (64 per channel, C, H, W)
small_ranks = {
    at: min(independent(fronts[at], image, small_directions) for image in examined) for at in cuts
}
most = len(small_directions)
determined = [at for at in cuts if small_ranks[at] == most]
print(f"unknowns of an enlarged 8x8 image: {most}")
print("all of them are determined when cut after:", ", ".join(determined) or "none")
print("not all of them:", ", ".join(at for at in cuts if at not in determined) or "none")
assert deep in determined or not as_shown

# %% [markdown]
# An attacker who knows how the images were made can use it: search the small image, and enlarge it
# on the way to the network. In our ten lines this is one argument, `decode`. The table compares the
# search for pixels, without and with the total variation, with the search for small images. For
# other data sets than digits an enlarged 8×8 image is only a blurred one; the last line says how
# close such an image can come at all.
#
# What share of the smooth pixels' error will the search for small images leave?

# %%
guess_enlarged = None  # your guess, 0 to 1


# %%
def enlarge(small):
    return interpolate(small, size=size, mode="bilinear")


def nearest_enlarged(images):
    """The best approximation of images (N, C, H, W) by enlarged small ones."""
    flat = images.cpu().double().flatten(2)
    projector = operator @ torch.linalg.pinv(operator)
    return (flat @ projector).float().reshape(images.shape).to(images.device)


small_grey = torch.full((len(images), channels, *small), 0.5, device=images.device)
from_small, _ = invert(front, target, small_grey, enlarge, steps=2 * steps)
errors = {
    "pixels, no prior": median_mse(from_grey),
    "pixels, smooth": median(raw[deep]),
    "enlarged 8x8 images": median_mse(from_small),
    "nearest enlarged image": median_mse(nearest_enlarged(images)),
}
plots.reconstructions(
    images,
    {"no prior": from_grey, "smooth": results[deep].inputs, "enlarged": from_small},
    source.classes,
)

# %% tags=["nbval-ignore-output"]
# not compared: the digits of an optimisation differ between machines
print(f"cut after {deep}, median raw MSE")
for name, error in errors.items():
    print(f"  {name:24}{error:.6f}")

# %%
free, smooth, enlarged_only, _ = errors.values()
claim("without a prior the error is that of smooth pixels times", free / smooth, ">", 6)
claim("with enlarged images it is this share of that", enlarged_only / smooth, "<", 0.01)
compare(guess_enlarged, enlarged_only / smooth, "share of the error that enlarged images leave")

# %% [markdown]
# Only the list of unknowns became shorter. When you read that an attack works at some depth, ask
# how many true unknowns its images have.

# %% [markdown]
# ## One search, and the best of four
#
# How much of a curve is the layers' doing, and how much the search's? On MNIST, whose images are
# not enlarged, there are two **recorded** answers, each of three victims, as shares of the mean
# image's error: one search of 2,000 steps with the weak prior from above, and the bound of the
# study, which also tries the next lesson's stronger priors. (The victims were trained for three
# epochs and for one, so not all of a difference is the search's.)

# %%
import json

brief = json.loads((recorded / "smashed_depth_mnist.json").read_text(encoding="utf-8"))
print(f"one search: {brief['command']} (torch {brief['versions']['torch']})")
by_victim = torch.tensor(brief["scores"]["mse"]) / brief["baselines"]["mean image"]["mse"]
one_search = dict(zip(brief["cuts"], by_victim.T, strict=True))  # cut -> a share for each victim
print("bound: make reproduce\n")
print(f"{'cut':8}{'MNIST, one search':>19}{'MNIST, bound':>14}{'digits, bound':>15}")
for at, shares in one_search.items():
    print(
        f"{at:8}{median(shares):19.1%}{median(bound('mnist', at)):14.1%}"
        f"{median(bound('digits', at)):15.1%}"
    )


# %%
def spread_of(shares):
    """Median, least and greatest over the victims, at each recorded cut."""
    return [[f(shares(at)) for at in one_search] for f in (median, torch.amin, torch.amax)]


plots.depth_curve(
    list(one_search),
    {
        "MNIST, one search": spread_of(one_search.get),
        "MNIST, bound": spread_of(lambda at: bound("mnist", at)),
        "digits, bound": spread_of(lambda at: bound("digits", at)),
    },
    "share of the mean image's error (recorded)",
    log=True,
    baselines={"mean image": 1.0},
)

# %%
factor = {at: median(one_search[at]) / median(bound("mnist", at)) for at in ("pool2", "fc2")}
claim("MNIST after fc2, one search, mean image 1", median(one_search["fc2"]), ">", 1)
claim("the bound there", median(bound("mnist", "fc2")), "<", 0.5)
claim("at pool2 and fc2 one search leaves the bound times", list(factor.values()), ">", 4)
harder = {at: median(bound("mnist", at)) / median(bound("digits", at)) for at in one_search}
claim("by the bound, MNIST is harder than digits at pool2 by a factor of", harder["pool2"], ">", 2)
claim("and not at fc2", harder["fc2"], "<", 1)

# %% [markdown]
# By the one search MNIST would be safe after fc2, with the weights on the table. The images were
# there; the search was weak. A curve shows what an attacker can do *at least*, the bound too.

# %%
# what `sltools sweep` keeps of this lesson
collected = {"raw_mse": median(raw[cut]), "mean_image_mse": blind}

# %% [markdown]
# **The clinic** can answer the vendor: unreadable is not private, for two cuts that showed only
# blots gave the patient's image back to whoever holds the weights. It asks next how far somebody
# comes who does not hold them.
#
# ## Limitations
#
# * **Count and rank are about equalities only.** A zero after a ReLU, a loser of a pooling window
#   and the range of a pixel give inequalities, and many of them leave little room. So images can
#   come back almost perfectly although the rank falls short, as after the first pooling above.
# * **The rank is local.** It describes small changes of one image. Two very different images may
#   share their smashed data although the rank is full.
# * **A failed attack is not a defence.** Attackers with images of the same kind learn a prior that
#   is much better than smoothness, and recover images from deeper cuts (SDAR, below).
# * **Known weights are a strong assumption**, made on purpose: an oracle.
# * **SSIM is kind to emptiness.** Where most of an image is black, a blank image scores well.
# * **One victim, one image of each class**, in the live cells. The ranges are over images, not over
#   trainings. The records have three victims.
#
# ## Try it
#
# * Set `tv=0.0` and then `tv=0.3` in the attack. Which cuts care? Use the count to explain it.
# * Make the client send half precision: `smashed.half().float()`. Does one equation less exact
#   count as one equation less?
# * Replace `small = (8, 8)` by `(6, 6)` and by `(16, 16)` and repeat the comparison. (An `assert`
#   will object; delete it.) What goes wrong with too few unknowns, what with too many?
# * Set `dataset = "mnist"` and see which of the printed claims no longer hold.
#
# ## Review questions
#
# **1.** The maps at a cut look like noise to everybody in the room. What may you conclude?
#
# <details><summary>Answer</summary>
#
# That these people cannot read them. The attack looks for an image that explains the numbers. In
# the run shown here, two cuts whose maps hardly correlate with their images gave these back.
# Privacy has to be measured against the best attack you know, beside baselines.
#
# </details>
#
# **2.** A cut sends more numbers than the image has pixels. Name two reasons why the image may
# still not be determined.
#
# <details><summary>Answer</summary>
#
# A number that is exactly zero after a ReLU stands for an inequality, not an equation, and pooling
# sends no number for its losers at all. And equations can repeat each other: then the rank of
# $\partial z / \partial x$ is below the number of pixels. The count is not sufficient.
#
# </details>
#
# **3.** And a cut that sends far fewer numbers than pixels: is it safe?
#
# <details><summary>Answer</summary>
#
# No. The count assumes that every pixel is a free unknown. Real images are not free: they are
# smooth, or enlarged, or black in most places, and bounded in all. With fewer true unknowns the
# same equations may be plenty.
#
# </details>
#
# ## Further reading
#
# * E. Erdoğan, A. Küpçü, A. E. Çiçek: *UnSplit: Data-Oblivious Model Inversion, Model Stealing, and
#   Label Inference Attacks Against Split Learning*, WPES 2022.
#   [arXiv 2108.09033](https://arxiv.org/abs/2108.09033). The same search, with the weights unknown.
# * A. Mahendran, A. Vedaldi: *Understanding Deep Image Representations by Inverting Them*, CVPR
#   2015. [arXiv 1412.0035](https://arxiv.org/abs/1412.0035). The search with known weights.
# * Z. He, T. Zhang, R. B. Lee: *Model Inversion Attacks Against Collaborative Inference*, ACSAC
#   2019. The same against a network cut in two.
# * D. L. Donoho, J. Tanner: *Sparse Nonnegative Solution of Underdetermined Linear Equations by
#   Linear Programming*, PNAS 102 (2005). When few equations are enough.
# * X. Zhu et al.: *Passive Inference Attacks on Split Learning via Adversarial Regularization*
#   (SDAR), NDSS 2025. [arXiv 2310.10483](https://arxiv.org/abs/2310.10483). A learned prior, and
#   reconstructions from deep cuts.
#
# **Next:** [lesson 04](04_inversion_and_stealing.ipynb), where nobody grants the weights.
