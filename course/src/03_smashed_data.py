# ---
# jupyter:
#   sltools:
#     minutes: 45
#     alternative: {cut: conv2}
# ---

# %% [markdown]
# # What smashed data give away
#
# After this lesson you can say, for any cut of a network, how much of an image the smashed data
# still hold: by looking, by attacking, and by counting.
#
# **Objectives.** You can
#
# * show what the activations at a cut look like, and measure how far a person gets by looking;
# * recover images from smashed data when the weights of the client are known, in ten lines;
# * score a recovery beside a blank image and a mean image, and draw it over the depth of the cut;
# * count equations and unknowns for a cut, for known and for unknown weights;
# * explain what ReLU and pooling throw away, and why the count alone decides nothing.
#
# **Prerequisites.** [Lesson 01](01_split_learning.ipynb) (split learning) and
# [lesson 02](02_threat_model.ipynb) (who sees what). Ranks and equations from linear algebra.
#
# **Time.** About 45 minutes (estimated).

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
# Outside the classroom the weights may lie in an app that can be unpacked, or with a second client
# that was given the same first layers. And keeping them secret is not enough, as
# [lesson 04](04_inversion_and_stealing.ipynb) shows.
#
# Why give the attacker so much at once? To separate two questions. *Is the image still in $z$?* is
# a question about layers. *Can someone without the weights get it out?* is one about secrets. Here
# the weights are on the table, so only the layers can still hide something.

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
# of each class; the client never trained on them.

# %%
import torch

from sltools import data, experiments, metrics, models, plots, protocol

as_shown = (dataset, cut, budget, seed, device) == ("digits", "pool1", "quick", 0, "cpu")


def claim(text, holds):
    """Print a claim and whether the numbers bear it out; as shown, every claim must hold."""
    print(f"{text}: {bool(holds)}")
    assert holds or not as_shown


source = data.load(dataset)
session = experiments.train_victim(source, cut, budget=budget, seed=seed, device=device)
private = source.test.first_per_class().to(device)
images, mean_image = private.images, source.train.images.mean(0).to(device)
print(f"private: {private}")
claim("the victim classifies more than 90% of the test images", session.accuracy(source.test) > 0.9)

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
# Here is what the server receives: the original on the left, and beside it the first channels of
# its smashed data. A channel is what one filter of the convolution sees, and convolution keeps
# things in their place. So a channel is a picture too.

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
# Without the widget: after the first convolution and the first pooling most channels are the image
# again, as an outline, a shadow or a negative. Two convolutions in, the maps are small blots. After
# a linear layer there are no maps left, only a stripe of numbers.
#
# "It looks like the image" can be measured. Shrink the images to the size of the maps. Smashed
# datum $i$ looks like image $j$ as much as its best channel $c$ correlates with the small image:
#
# $$\text{likeness}(i, j) =
# \max_c\, \bigl|\operatorname{corr}\bigl(z_{i,c},\ \operatorname{shrink}(x_j)\bigr)\bigr| .$$
#
# A person who must say which image a smashed datum came from would name the one most like it. If
# that is right for far more than one in $N$ (chance), the smashed data can be read by eye.

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
by_eye = {at: named_right(sessions[at].observe(line_up).smashed, line_up) for at in with_maps}

# %% tags=["nbval-ignore-output"]
# not compared: a share may differ by an image or two between machines
for at, share in by_eye.items():
    print(f"cut after {at:6} {share:6.1%} of {len(line_up)} named right by eye")
print(f"{'chance':16} {1 / len(line_up):6.1%}")

# %%
readable = [at for at in by_eye if by_eye[at] > 0.5]
print("more than half are named right by eye when cut after:", ", ".join(readable) or "none")

# %% [markdown]
# That is what there is to *see*. A designer who looks at the maps would move the cut behind the
# last readable one and call it private. The rest of the lesson is about why that is wrong: an
# optimiser does not look.

# %% [markdown]
# ## By attacking
#
# ### The idea
#
# The attacker knows the client's layers $f$ and receives $z = f(x)$. So it guesses an image
# $\hat x$, computes what the client would have sent for it, and moves the guess until the two
# agree:
#
# $$\hat x = \arg\min_{0 \le x \le 1}\
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
# they are the pixels themselves; later they will be something else.)


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
claim("the median error is below a quarter of the mean image's", median_mse(found) < blind / 4)

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
# An error means little alone. The table puts the attack beside two guesses that use no smashed
# data at all: a **blank image** (all zeros), and the **mean image** of the training set.
#
# * **MSE**, the mean squared error of the pixels: raw, and for the worst image.
# * **aligned**: the MSE after the best change of contrast and brightness, $a\hat x + b$, for each
#   image. It asks for the shape only. Nobody but us, who know the truth, can align like that.
# * **PSNR**, $10 \log_{10}(1/\text{MSE})$: the same error in decibels, more is better.
# * **SSIM**, structural similarity: 1 is a perfect copy, about 0 is unrelated. It goes by local
#   contrast, as the eye does.
# * **negatives**: the share that came out as negatives, with $a < 0$.

# %% tags=["nbval-ignore-output"]
# not compared: the digits of an optimisation differ between machines
report = metrics.score_inversion(results[cut].inputs, images, mean_image)
print(f"cut after {cut}")
print(report)

# %%
raw = {at: metrics.mse(results[at].inputs, images) for at in cuts}
claim(f"cut after {cut}, the worst raw MSE is below 0.01", raw[cut].max() < 0.01)
claim("  and the median is below a tenth of the mean image's", median(raw[cut]) < blind / 10)

# %% [markdown]
# ## The deeper, the harder
#
# The same attack, with the same settings, at every cut. Row by row the client computes more before
# it sends.

# %%
plots.reconstructions(images, {at: results[at].inputs for at in cuts}, source.classes)

# %% [markdown]
# Compare these rows with what could be read by eye. **Unreadable is not private.**

# %%
unreadable = [at for at in by_eye if at not in readable]
recovered = [at for at in unreadable if median(raw[at]) < blind / 5]
print("not readable by eye:", ", ".join(unreadable) or "none")
print("of these, recovered to a fifth of the mean image's error:", ", ".join(recovered) or "none")
assert recovered == ["conv2", "pool2"] or not as_shown

# %% [markdown]
# The depth curve shows median and range over the images, on a logarithmic scale, with the two
# guesses as grey lines. Where the curve reaches the mean image, the smashed data have taught this
# attacker nothing that the training set would not have told.


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
aligned = {at: scores[at].aligned_mse for at in cuts}
plots.depth_curve(
    cuts,
    {"raw MSE": spread(raw), "aligned MSE": spread(aligned)},
    "error",
    log=True,
    baselines={name: median_mse(guess) for name, guess in guesses.items()},
)

# %%
ssim = {at: scores[at].ssim for at in cuts}
plots.depth_curve(
    cuts,
    {"SSIM": spread(ssim)},
    "structural similarity",
    baselines={name: median(metrics.ssim(guess, images)) for name, guess in guesses.items()},
)

# %%
first, last = cuts[0], cuts[-1]
claim(f"cut after {first}, SSIM is above 0.99 for every image", ssim[first].min() > 0.99)
growth = median(raw[last]) / median(raw[first])
claim(f"the median raw MSE grows a hundredfold from {first} to {last}", growth > 100)
never_above = all((aligned[at] <= raw[at] + 1e-6).all() for at in cuts)
claim("at no cut is the aligned MSE above the raw one", never_above)

# %% [markdown]
# Where the attack works, the raw and the aligned error stay close: known weights tell how bright
# an image must be to give these numbers. Keep that in mind for
# [lesson 04](04_inversion_and_stealing.ipynb), where the weights are unknown and brightness is one
# of the things that they hide.

# %% [markdown]
# ## By counting
#
# Why does it get harder? Start with the plainest argument there is. Each number sent is one
# **equation** about the image. Each pixel is one **unknown**. With fewer equations than unknowns,
# many images fit.
#
# If the attacker does not know the weights, every weight of the client is one more unknown. But the
# weights are the same for all images. So with $N$ images that share one copy of the weights (a
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
# The columns in the middle are the forecast for the next lesson: there the attacker has ten images
# and no weights.
#
# The forecast for this lesson is the column "weights known". Compare it with the depth curve. It
# has a point: the errors rise where the equations run out. But they rise before that as well, and
# after it images still come back that by this count could not. Two things are wrong with the plain
# count: **not every number is an equation**, and **not every pixel is an unknown**.

# %% [markdown]
# **Try it.** For a linear layer with known weights, $z = W x + b$, no search is needed: enough
# equations can simply be solved. Write it; `weight` is $(M, D)$, `bias` $(M,)$, and `smashed` has a
# row of $M$ numbers for each image. If many inputs explain the numbers, return the one of least
# norm; if none does so exactly, the one of least squared error.


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
# Let us see how many numbers are exactly zero. A convolution or a linear layer hardly ever gives an
# exact zero; a ReLU does it all the time, and pooling keeps a zero only where all four were zero.

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
none_zero = all(zeros[stage] < 0.001 for stage in dense)
claim("convolutions and linear layers send hardly any exact zeros", none_zero)
claim("the last ReLU sends more than a quarter of zeros", zeros[rectified[-1]] > 0.25)

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
# Zeros are easy to count, but they are not the whole loss. Equations can also repeat each other:
# two numbers that say the same thing count as one. The honest count asks for the **rank**. Change
# the image a little, in any direction $d$, and the smashed data change by $J d$, where
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
# We ask about one direction for each pixel. (Of images with more than 28×28 numbers we only ask
# about a square in the middle, and suppose that the attacker knows the rest.) Where two activations
# of a pooling window are equal, as they are in front of an even background, there is no derivative.
# A trace of noise makes all of them different.

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
sent = {at: torch.tensor([float(counts[at][0])]) for at in cuts}
plots.depth_curve(
    cuts,
    {"numbers sent": spread(sent), "not zero": spread(nonzero), "independent": spread(ranks)},
    "equations for one image",
    log=True,
    baselines={"pixels asked about": len(directions)},
)

# %% tags=["nbval-ignore-output"]
# not compared: the weights, and with them the ranks, differ a little between machines
print(f"{'cut':8}{'sent':>8}{'not zero (median)':>20}{'independent (least)':>22}")
for at in cuts:
    print(f"{at:8}{counts[at][0]:8,}{median(nonzero[at]):20,.0f}{ranks[at].min():22,.0f}")

# %%
unknowns = len(directions)
short = [at for at in cuts if counts[at][0] >= unknowns and (ranks[at] < unknowns).all()]
print("numbers enough, independent ones too few, when cut after:", ", ".join(short) or "none")
claim(f"cut after {first}, every pixel is determined", (ranks[first] == unknowns).all())
repeated = (ranks[last] < counts[last][0]).all()
claim(f"cut after {last}, some of the numbers sent repeat others", repeated)
assert short == ["pool1", "conv2"] or not as_shown

# %% [markdown]
# So the count is **necessary, not sufficient**. Too few equations always leave a choice. Enough of
# them may leave one, because some are zeros and some repeat others. Note the last cut: a linear
# layer that follows a ReLU sends no zeros, yet it cannot bring back what the ReLU dropped.
#
# What a choice means can be shown. Where equations are fewer than pixels, we run the ten-line
# attack twice, with no prior but the range of a pixel: once from grey, once from noise.

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
worse = max(loss_grey, loss_noise)
claim("both explain more than 99.9% of the variance of the smashed data", worse < 0.001)
claim("yet the two pictures differ by more than MSE 0.01", apart > 0.01)

# %% [markdown]
# Different pictures, as good as the same message: $z$ alone hardly tells which of them the client
# had. What decides is the prior: smoothness, in the attack above. A better prior decides better,
# which brings us to the second mistake of the plain count.

# %% [markdown]
# ## Not every pixel is an unknown
#
# The data set `digits` consists of images of 8×8 pixels. The course enlarges them to the size that
# the network wants. Enlarging adds pixels, but it adds no information: each new pixel is a weighted
# mean of old ones. In matrices, $x = R\,s$ with the small image $s$ and a fixed matrix $R$, and the
# number of unknowns is the rank of $R$.

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
# Two ways to ask. The rank of the matrix of training images counts every direction in which they
# differ at all. It is a generous count. The second line says how many principal components it takes
# to explain most of the variance.

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
# So digits are the **easy case**, and results on them flatter the attacker: an image of this data
# set has far fewer unknowns than pixels. Ask for the rank again, now only over the directions in
# which an enlarged image can change.

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
claim("without a prior the error is more than three times that of smooth pixels", free > 3 * smooth)
claim("with enlarged images it is below a third of that", enlarged_only < smooth / 3)

# %% [markdown]
# Same cut, same smashed data, same number of equations. Only the list of unknowns became shorter.
# When you read that an attack works at some depth, ask how many true unknowns its images have.

# %% [markdown]
# ## The harder case, recorded
#
# MNIST has images of the full size, drawn by hand and not enlarged. This run is **recorded**: it
# was made once by a script, with three victims and more steps than above, and is read from a file.

# %%
import json

from sltools import lessons

recorded = json.loads((lessons.course() / "results" / "smashed_depth_mnist.json").read_text())
settings = recorded["attack"]
print(f"recorded by: {recorded['command']}")
print(f"data: {recorded['dataset']}, {recorded['targets']} targets")
print(f"victims: seeds {recorded['seeds']}, test accuracies {recorded['victim_accuracy']}")
print(f"attack: {settings['name']}, {settings['steps']:,} steps, tv {settings['tv']}")
print(f"torch {recorded['versions']['torch']}, {recorded['device']}")
print(f"seconds: {recorded['seconds']} by the clock, {recorded['cpu_seconds']} of computing")


# %%
def over_victims(score):
    """Median, least and greatest over the victims of their median images, at each cut."""
    values = torch.tensor(recorded["scores"][score])  # (victims, cuts)
    return values.median(0).values, values.amin(0), values.amax(0)


plots.depth_curve(
    recorded["cuts"],
    {"raw MSE": over_victims("mse"), "aligned MSE": over_victims("aligned_mse")},
    f"error, {recorded['dataset']} (recorded)",
    log=True,
    baselines={name: guess["mse"] for name, guess in recorded["baselines"].items()},
)

# %%
plots.depth_curve(
    recorded["cuts"],
    {"SSIM": over_victims("ssim")},
    f"structural similarity, {recorded['dataset']} (recorded)",
    baselines={name: guess["ssim"] for name, guess in recorded["baselines"].items()},
)

# %%
medians = dict(zip(recorded["cuts"], over_victims("mse")[0].tolist(), strict=True))
share = {at: error / recorded["baselines"]["mean image"]["mse"] for at, error in medians.items()}
for at, error in medians.items():
    print(f"cut after {at:6} recorded raw MSE {error:.6f}, {share[at]:6.1%} of the mean image's")

# %%
harder = {at: share[at] * blind / median(raw[at]) for at in never if at in share}
print("equations fewer than pixels:", ", ".join(never) or "nowhere")
claim("at pool2, three times harder in the recorded run than above", harder.get("pool2", 0) > 3)

# %% [markdown]
# Each run is measured by its own mean image, for the data sets differ in contrast. Where the
# equations run out, the data set begins to decide.

# %%
# what `sltools sweep` keeps of this lesson
collected = {"raw_mse": median(raw[cut]), "mean_image_mse": blind}

# %% [markdown]
# ## Frank notes
#
# * **The count is about equalities only.** A zero behind a ReLU and a loser of a pooling window
#   give inequalities, and many inequalities leave little room. So images can come back almost
#   perfectly although the rank falls short, as after the first pooling above.
# * **The rank is local.** It describes small changes of one image. Two very different images may
#   share their smashed data although the rank is full, and a direction that goes unnoticed at first
#   may be noticed a step later, when another activation wins.
# * **The curve mixes two things**: what the layers threw away, and what the search has not yet
#   found. At the deep cuts more steps lower the error further (set `budget = "full"`). So the curve
#   shows what *this* attack reaches. It is no proof that nobody gets further.
# * **A failed attack is not a defence.** Attackers with images of the same kind learn a prior that
#   is much better than smoothness. Published attacks of that sort recover images from cuts deeper
#   than any here (SDAR, below).
# * **Known weights are a strong assumption**, made here on purpose. It gives a bound for attackers
#   who have to guess the weights too and use the same prior.
# * **SSIM is kind to emptiness.** Where most of an image is black, a blank image scores well: see
#   the grey lines of the recorded figure. No score means much without its baselines.
# * **One victim, one image of each class**, in the live cells. The ranges are over images, not over
#   trainings. The recorded run has three victims.
#
# ## Try it
#
# * Set `tv=0.0` and then `tv=0.3` in the attack. Which cuts care? Use the count to explain it.
# * Make the client send half precision: `smashed.half().float()`. Does one equation less exact
#   count as one equation less?
# * Replace `small = (8, 8)` by `(6, 6)` and by `(16, 16)` and repeat the comparison. (An `assert`
#   will object; delete it.) What goes wrong with too few unknowns, what with too many?
# * Set `dataset = "mnist"` and see which of the printed claims turn to `False`. (`cifar10` has
#   larger layers: allow it several minutes.)
#
# ## Review questions
#
# **1.** The maps at a cut look like noise to everybody in the room. What may you conclude?
#
# <details><summary>Answer</summary>
#
# That people cannot read them. The attack does not look at maps; it looks for an image that
# explains the numbers. In the run shown here, two cuts that no eye could read gave their images
# back. Privacy has to be measured against the best attack you know, beside its baselines.
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
# $\partial z / \partial x$ is below the number of pixels. The count is necessary, not sufficient.
#
# </details>
#
# **3.** And a cut that sends far fewer numbers than pixels: is it safe?
#
# <details><summary>Answer</summary>
#
# No. The count assumes that every pixel is a free unknown. Real images are not free: they are
# smooth, or enlarged, or digits. With fewer true unknowns the same equations may be plenty, and the
# attacker only needs a prior that knows it.
#
# </details>
#
# ## Further reading
#
# * E. Erdoğan, A. Küpçü, A. E. Çiçek: *UnSplit: Data-Oblivious Model Inversion, Model Stealing, and
#   Label Inference Attacks Against Split Learning*, WPES 2022.
#   [arXiv 2108.09033](https://arxiv.org/abs/2108.09033). The same search, with the weights unknown.
# * D. Pasquini, G. Ateniese, M. Bernaschi: *Unleashing the Tiger: Inference Attacks on Split
#   Learning*, CCS 2021. [arXiv 2012.02670](https://arxiv.org/abs/2012.02670). A malicious server
#   that makes the client learn a front that is easy to invert.
# * X. Zhu et al.: *Passive Inference Attacks on Split Learning via Adversarial Regularization*
#   (SDAR), NDSS 2025. [arXiv 2310.10483](https://arxiv.org/abs/2310.10483). A learned prior, and
#   reconstructions from deep cuts.
#
# **Next:** [lesson 04](04_inversion_and_stealing.ipynb), where nobody grants the weights.
