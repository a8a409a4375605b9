# %% [markdown]
# # Exercises 10: attackers with data
#
# For [lesson 10](../course/10_attackers_with_data.ipynb). You build the distance by which a
# surrogate is aligned, foretell what it cannot see, write the batch and the step of PCAT, and then
# judge: a surrogate beside a rival, and a study that flatters its attack. At the end you read
# images after a dense layer. About two hours and a half; each task stands alone, so skip what does
# not draw you.
#
# `check` tells at once whether an answer is right, and if not, why. `hint` gives one hint after
# another. Both can be called as often as you like: nothing is deducted, and nothing leaves your
# machine. (The first optimiser of a session makes torch load its compiler, `torch._dynamo`, which
# takes seconds, once, and says nothing: such a check hangs a moment.)

# %%
import copy
from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sltools import data
from sltools.attacks import FORA, PCAT, SDAR
from sltools.attacks.alignment import Samples, mk_mmd
from sltools.exercises import check, hint, progress, quiz
from sltools.view import View

# %% [markdown]
# Throughout, the attacker is the server. It has images of its **own**, and trains a **surrogate**
# of the client on them.
#
# {{task 10.mmd}}
#
# Two sets of smashed data, `made` by the surrogate, $(N, D)$, and `real` ones of the client,
# $(M, D)$. Which belongs to which, nobody knows. Compare the sets by
#
# $$\mathrm{MMD}^2 = \operatorname{mean}_{s, s'} k(s, s') + \operatorname{mean}_{z, z'} k(z, z')
#   - 2 \operatorname{mean}_{s, z} k(s, z), \qquad
#   k(a, b) = \sum_w \exp\!\Big(\!-\frac{\|a - b\|^2}{w\, m}\Big) ,$$
#
# with $w$ from the list `widths`. The scale $m$ is the mean of $\|a - b\|^2$ over all pairs of two
# samples from the sets **joined**, and counts as a constant. In every mean, each sample is also
# paired with itself.
#
# Return the number as a tensor, such that the surrogate can follow its gradient at `made`.


# %%
def squared_mmd(made: Tensor, real: Tensor, widths: list[float]) -> Tensor:
    ### BEGIN SOLUTION
    both, count = torch.cat([made, real]), len(made)
    distances = torch.cdist(both, both).square()
    scale = distances.mean().detach()
    kernel = torch.stack([torch.exp(-distances / (width * scale)) for width in widths]).sum(0)
    across = kernel[:count, count:].mean()
    return kernel[:count, :count].mean() + kernel[count:, count:].mean() - 2 * across
    ### END SOLUTION


check("10.mmd", squared_mmd)

# %% [markdown]
# Stuck? Take the `#` away.

# %%
# hint("10.mmd")

# %% [markdown]
# {{task 10.mixed}}
#
# A surrogate with a squared MMD of 0. For image $i$ it sends what the client sends for *another*
# image: $s(x_i) = f(x_{\mathrm{order}[i]})$. Attacker and client have the same images here, so the
# two sets of smashed data are the same. The decoder undoes the surrogate without a fault:
# $d(s(x_i)) = x_i$. It is given the client's $f(x_j)$, for all $j$.
#
# * **Predict** the images $d(f(x_0)), d(f(x_1)), \ldots$ that come back, in this order, from
#   `images` and `order` alone.
# * **Measure** them: `made` is what the surrogate really sends, $(N, 12)$. As the decoder look up,
#   for each of the client's smashed data, the image whose own come nearest. (`order` was written
#   down by somebody, and nobody has checked it: the two need not agree everywhere.)
#
# `front` is the client, `images` are $(N, 1, 4, 4)$, `order` is a permutation of $0, \ldots, N-1$.
# Return both, each of the shape of `images`.


# %%
def predict_and_decode(
    front: nn.Sequential, images: Tensor, order: Tensor, made: Tensor
) -> tuple[Tensor, Tensor]:
    ### BEGIN SOLUTION
    predicted = images[order.argsort()]
    with torch.no_grad():
        received = front(images)
    return predicted, images[torch.cdist(received, made).argmin(1)]
    ### END SOLUTION


check("10.mixed", predict_and_decode)

# %%
# hint("10.mixed")

# %% [markdown]
# {{task 10.aligned}}
#
# PCAT gives each batch of its own images the labels of the client's batch. `own` holds the labels
# of the attacker's images, $(N,)$, and `wanted` those of the client's batch, $(B,)$. Choose for
# each place of the batch a row of `own` with that label, each such row as likely as the others.
#
# So that the draw can be checked, it is made by `luck`, $(B,)$, numbers from 0 up to, but without,
# 1: of the $n$ rows with the label, in their order, take the one at the place
# $\lfloor \mathrm{luck} \cdot n \rfloor$, counted from 0. Where the attacker has no image of a
# class, any of its $N$ images has to do, drawn in the same way. Return the rows, $(B,)$.


# %%
def aligned(own: Tensor, wanted: Tensor, luck: Tensor) -> Tensor:
    ### BEGIN SOLUTION
    rows = []
    for label, chance in zip(wanted, luck, strict=True):
        of_class = (own == label).nonzero()[:, 0]
        among = of_class if len(of_class) else torch.arange(len(own))
        rows.append(among[int(chance * len(among))])
    return torch.stack(rows)
    ### END SOLUTION


check("10.aligned", aligned)

# %%
# hint("10.aligned")

# %% [markdown]
# {{task 10.frozen}}
#
# One step of PCAT, while the honest training is on: the server's own layers, as they answer at
# **inference**, shall tell the labels of the attacker's images from what the surrogate makes of
# them. The loss is the mean cross-entropy, the step a plain one,
# $w \leftarrow w - \mathrm{lr} \cdot \partial L / \partial w$, in the surrogate's weights and in no
# others.
#
# The server must be left as it was found: it goes on with its own training afterwards. That is more
# than its weights. It contains BatchNorm.
#
# `surrogate` and `server` are `nn.Sequential`, both in training mode, and to be left in it;
# `images` are $(B, 1, 4, 4)$, `labels` $(B,)$. Take the step **in place**, and return nothing:
# `watched`, which is given, looks at the two that were passed.


# %%
def watched(step: Callable) -> Callable:
    """Take `step`, and return what can be seen afterwards of the two networks that were passed."""

    def flat(tensors):
        return torch.cat([values.detach().flatten().float() for values in tensors])

    @wraps(step)
    def watched_step(surrogate, server, images, labels, lr):
        step(surrogate, server, images, labels, lr)
        weights = list(server.parameters())
        return {
            "surrogate": flat(surrogate.parameters()),
            "server": flat(server.state_dict().values()),
            "gradients": sum(w.grad is not None and bool(w.grad.any()) for w in weights),
            "frozen": sum(not w.requires_grad for w in weights),
            "training": sum(layer.training for layer in server.modules()),
            "surrogate_training": sum(layer.training for layer in surrogate.modules()),
        }

    return watched_step


@watched
def frozen_step(
    surrogate: nn.Sequential, server: nn.Sequential, images: Tensor, labels: Tensor, lr: float
) -> None:
    ### BEGIN SOLUTION
    still = copy.deepcopy(server).eval()
    loss = cross_entropy(still(surrogate(images)), labels)
    weights = list(surrogate.parameters())
    with torch.no_grad():
        for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight -= lr * slope
    ### END SOLUTION


check("10.frozen", frozen_step)

# %%
# hint("10.frozen")

# %% [markdown]
# {{task 10.ahead}}
#
# A surrogate was trained, and put before the server's own layers it makes a service. What of that
# did the split give? Compare with a **rival** that has the same labelled images and nothing else:
# it gives each image the label of the nearest one (by the distance of all pixels) among `own`.
#
# `client`, `surrogate` and `server` are `nn.Sequential`; `own` are the attacker's images,
# $(N, 1, 5, 5)$, with `own_labels`, and `images`, $(M, 1, 5, 5)$, with their true `labels`, are
# there to try things on. Return two numbers: by how much the surrogate is ahead of the rival in
# **accuracy**, and in **agreement with the victim**. Each is a difference of two shares, below 0 if
# the rival is ahead.


# %%
def ahead(
    client: nn.Sequential,
    surrogate: nn.Sequential,
    server: nn.Sequential,
    own: Tensor,
    own_labels: Tensor,
    images: Tensor,
    labels: Tensor,
) -> tuple[float, float]:
    ### BEGIN SOLUTION
    victim, stolen = (server(front(images)).argmax(1) for front in (client, surrogate))
    nearest = torch.cdist(images.flatten(1), own.flatten(1)).argmin(1)
    rival = own_labels[nearest]

    def gain(truth: Tensor) -> float:
        return ((stolen == truth).float().mean() - (rival == truth).float().mean()).item()

    return gain(labels), gain(victim)
    ### END SOLUTION


check("10.ahead", ahead)

# %%
# hint("10.ahead")

# %% [markdown]
# {{task 10.fair_study}}
#
# "Images come back at a fraction of the baseline's error", says a study, and this is how it counts:
#
# ```python
# def fair_study(own, own_labels, private, labels, inputs):
#     errors = (inputs - private).square().mean((2, 3, 4))  # (run, image)
#     baseline = (own.mean(0) - private).square().mean((1, 2, 3))  # (image,)
#     return (errors.mean(1).min() / baseline.mean()).item()
# ```
#
# * `own` and `own_labels`: the attacker's images and their labels;
# * `private` and `labels`: the client's images that were attacked, and their true labels. An image
#   is the same as one of `own` if the two are equal pixel by pixel;
# * `inputs`: the reconstructions, $(R, M, 1, 4, 4)$, of an odd number of runs that differ in their
#   seed only.
#
# Three things flatter the attack. Mend them, and change nothing else: it stays one number, the
# quotient of two mean errors over images.


# %%
def fair_study(
    own: Tensor, own_labels: Tensor, private: Tensor, labels: Tensor, inputs: Tensor
) -> float:
    ### BEGIN SOLUTION
    known = (private[:, None] == own).flatten(2).all(2).any(1)
    classes = own_labels.unique()
    means = {int(c): own[own_labels == c].mean(0) for c in classes}
    of_class = torch.stack([means[int(label)] for label in labels])
    errors = (inputs - private).square().mean((2, 3, 4))[:, ~known]
    baseline = (of_class - private).square().mean((1, 2, 3))[~known]
    return (errors.mean(1).median() / baseline.mean()).item()
    ### END SOLUTION


check("10.fair_study", fair_study)

# %%
# hint("10.fair_study")

# %% [markdown]
# {{task 10.challenge}}
#
# Now in earnest. Digits, cut after fc1: $z$ is 120 numbers for each image. You are the server, and
# have 500 labelled images of your own, of digits that no client has seen. `view` shows what a
# server sees of an inference: `view.smashed`, $(360, 120)$, `view.model`, your own layers, which
# you may change as you like, and `view.architecture`, from which `.build(seed, "surrogate")` makes
# a network like the client's, with fresh weights. `images` $(500, 1, 28, 28)$ and `labels` $(500,)$
# are yours. All of `sltools` may be used, also its attacks, `SDAR`, `PCAT` and `FORA`, which take
# your images and labels together, as `data.Split(images, labels)`.
#
# Return the 360 reconstructions, $(360, 1, 28, 28)$, in the order of the smashed data. You meet two
# clients, each in a call of its own and with weights and images of its own. Scored is the mean
# squared error over all images, beside that of the **mean image of the right class**, made of your
# 500. Down to 0.6 of it earns half of the points, down to 0.46 all of them: a short run of an
# attack as it stands in the library does not get there. All images are turned and moved a little,
# so there is nothing to look up. A call may take 150 seconds of CPU time when it is graded.


# %%
def after_fc1(view: View, images: Tensor, labels: Tensor) -> Tensor:
    ### BEGIN SOLUTION
    own = data.Split(images, labels)
    # Surrogates of other seeds err in other places: the mean of their images errs less.
    runs = [SDAR(steps=1000, seed=seed)(view, own).inputs for seed in range(2)]
    return torch.stack(runs).mean(0)
    ### END SOLUTION


# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
check("10.challenge", after_fc1)

# %%
# hint("10.challenge")

# %% [markdown]
# ## Review
#
# Four questions, never graded. Open an option to see what it is worth: click on it, or reach it
# with the Tab key and press Enter.

# %%
quiz("10")

# %% [markdown]
# ## How far you are

# %%
progress("10")
