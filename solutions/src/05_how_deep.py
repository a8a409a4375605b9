# %% [markdown]
# # Exercises 05: how deep is deep enough?
#
# For [lesson 05](../course/05_how_deep.ipynb). You count what a cut leaves an attacker, foretell
# how much gets through ReLU and pooling, choose among restarts as an attacker must, and repair a
# study. At the end you look for images where the lesson found none. About two hours; each task
# stands alone, so skip what does not draw you.
#
# `check` tells at once whether an answer is right, and if not, why. `hint` gives one hint after
# another. Both can be called as often as you like: nothing is deducted, and nothing leaves your
# machine.

# %%
import torch
from torch import Tensor, nn
from torch.optim import Adam

from sltools import data
from sltools.exercises import check, hint, progress, quiz

# %% [markdown]
# Throughout, $x$ are the private images, $z$ are the smashed data, and $|x|$, $|z|$ are how many
# numbers one image has, and how many are sent for it.
#
# {{task 05.count}}
#
# $N$ images give $N\,|z|$ equations for $N\,|x| + |W|$ unknowns: the pixels of each image, and the
# weights $W$ of the client (with its biases), which all images share.
#
# `client` is the client's part of the network, `images` is $(N, C, H, W)$. Return two whole
# numbers: the unknowns, then the equations.


# %%
def unknowns_and_equations(client: nn.Sequential, images: Tensor) -> tuple[int, int]:
    ### BEGIN SOLUTION
    weights = sum(weight.numel() for weight in client.parameters())
    return images.numel() + weights, client(images).numel()
    ### END SOLUTION


check("05.count", unknowns_and_equations)

# %% [markdown]
# Stuck? Take the `#` away.

# %%
# hint("05.count")

# %% [markdown]
# {{task 05.rank}}
#
# Not every number sent is an equation. An output that ReLU turned off says nothing of small changes
# of the image, and pooling drops three numbers in four. What comes later cannot bring them back.
# First predict, then measure:
#
# * **Predict** the number of independent equations as the narrowest place on the way: the least of
#   the number of pixels and, behind each layer of the client, the number of entries that are not
#   zero.
# * **Measure** it: the rank of $\partial z/\partial x$ at this image, a matrix with a row for each
#   number sent and a column for each pixel. (The rank is the number of its independent rows.)
#
# `client` is a convolution, a ReLU, a max pooling, `nn.Flatten` and a dense layer; `image` is
# $(1, 1, 8, 8)$. Return two whole numbers: the prediction, then the rank.


# %%
def predict_rank(client: nn.Sequential, image: Tensor) -> tuple[int, int]:
    ### BEGIN SOLUTION
    narrowest, now = image.numel(), image
    for layer in client:
        now = layer(now)
        narrowest = min(narrowest, int((now != 0).sum()))
    jacobian = torch.autograd.functional.jacobian(client, image)
    return narrowest, int(torch.linalg.matrix_rank(jacobian.reshape(-1, image.numel())))
    ### END SOLUTION


check("05.rank", predict_rank)

# %%
# hint("05.rank")

# %% [markdown]
# {{task 05.choose}}
#
# A restart is the same search from another random clone. The attacker makes several and keeps one.
# It may go by the **feature loss**: the mean squared error between what a clone makes of its own
# images and the smashed data, divided by the variance of the smashed data.
#
# `clones` is a list of $R$ networks, `inputs` is $(R, N, C, H, W)$ (the images that each restart
# found), `smashed` is what the client sent for the $N$ images. Return two things: the number of
# the restart to keep, counted from 0, and the $R$ feature losses.


# %%
def choose_restart(
    clones: list[nn.Sequential], inputs: Tensor, smashed: Tensor
) -> tuple[int, Tensor]:
    ### BEGIN SOLUTION
    pairs = zip(clones, inputs, strict=True)
    errors = torch.stack([(clone(images) - smashed).square().mean() for clone, images in pairs])
    losses = errors.detach() / smashed.var()
    return int(losses.argmin()), losses
    ### END SOLUTION


check("05.choose", choose_restart)

# %%
# hint("05.choose")

# %% [markdown]
# {{task 05.trust}}
#
# Does the objective rank restarts as the truth does? For each attack, *Spearman's rank correlation*
# says: put numbers in place of its restarts' objectives, 0 for the least, 1 for the next and so on;
# do the same with their errors; and correlate the two lists of ranks. (The correlation of two lists
# is the sum of the products of their deviations from their means, divided by the roots of the sums
# of both squares.) Two shuffled lists of $R$ restarts have a correlation of standard deviation
# $1/\sqrt{R - 1}$. So the **mean** over $k$ attacks lies within
# $2/\sqrt{k\,(R - 1)}$ of zero nineteen times out of twenty if there is no relation at all.
#
# `objective` and `errors` are $(k, R)$: a row for each attack, a column for each restart, no two
# numbers alike. Return two numbers: the mean over the attacks of the rank correlation, and the
# bound.


# %%
def rank_correlation(objective: Tensor, errors: Tensor) -> tuple[float, float]:
    ### BEGIN SOLUTION
    attacks, restarts = objective.shape
    ranks = [values.argsort(1).argsort(1).double() for values in (objective, errors)]
    one, other = (rank - rank.mean(1, keepdim=True) for rank in ranks)
    found = (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))
    return found.mean().item(), 2 / (attacks * (restarts - 1)) ** 0.5
    ### END SOLUTION


check("05.trust", rank_correlation)

# %%
# hint("05.trust")

# %% [markdown]
# {{task 05.known}}
#
# When an attack fails, ask whether the images are gone or only locked. The second attacker of the
# lesson knows: it is granted the weights, and searches the images alone. Write it: find images with
# pixels in $[0, 1]$ for which the client would send `smashed`, with a feature loss below 0.004.
#
# `client` is the client's own part, with its true weights; `smashed` is what it sent; `shape` is
# the shape of the images, $[N, C, H, W]$. Return the images. No prior is needed here.


# %%
def known_weights(client: nn.Sequential, smashed: Tensor, shape: list[int]) -> Tensor:
    ### BEGIN SOLUTION
    images = torch.full(shape, 0.5).requires_grad_()
    optimizer = Adam([images], lr=0.05)
    for _ in range(300):
        loss = (client(images) - smashed).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        images.data.clamp_(0, 1)
    return images.detach()
    ### END SOLUTION


check("05.known", known_weights)

# %%
# hint("05.known")

# %% [markdown]
# {{task 05.report}}
#
# A study made several attacks, each with six restarts, and reports:
#
# ```python
# def report(objective, errors, accuracy, random):
#     error = errors.min(dim=1).values.median().item()
#     clone = accuracy.max(dim=1).values.median().item()
#     return error, clone
# ```
#
# All four are tensors with a row for each attack and a column for each restart: the objective, the
# raw MSE of the images, the accuracy with the stolen clone in the client's place, and the accuracy
# with a random, untrained client there. Three things flatter the attack: which restart the error is
# of, which restart the clone is of, and what is missing beside the clone.
#
# Mend all three. Of each attack keep **one** restart, by what the attacker can see. Return two
# numbers: the median over the attacks of its raw MSE; and the median over the attacks of its
# clone's accuracy, less the accuracy of the best random client of all that were tried.


# %%
def report(
    objective: Tensor, errors: Tensor, accuracy: Tensor, random: Tensor
) -> tuple[float, float]:
    ### BEGIN SOLUTION
    kept = objective.argmin(dim=1, keepdim=True)
    error = errors.gather(1, kept).median()
    clone = accuracy.gather(1, kept).median()
    return error.item(), (clone - random.max()).item()
    ### END SOLUTION


check("05.report", report)

# %%
# hint("05.report")

# %% [markdown]
# {{task 05.challenge}}
#
# Digits, cut after `fc2`, two dense layers deep. Here even the lesson's second attacker, who knows
# the weights, has after five hundred steps only images that are about as far off as the mean image.
# Are the images gone, or were they only not found?
#
# `view` is the server's view of one inference on twenty private images, with the weights granted:
# `view.smashed` and `view.client_model`. Each image is a collage of quarters of four test images,
# which were turned and moved a little, so that it is in no data set. Return your reconstructions,
# $(20, 1, 28, 28)$.
#
# You may use all of `sltools`, or nothing of it, and take the training images of the digits,
# `data.load("digits").train.images`, for public images of the same kind. (Say so when you report
# such an attack: the lesson's had none.) Scored is the median MSE beside two baselines: the mean of
# the public images, and for each private image the public one whose smashed data come nearest. 10%
# below the better of the two earns half of the points, 45% below it all of them. Your attack is
# called twice, the second time with the smashed data of other images: what does not follow the
# smashed data is no attack. Keep it below ten seconds.


# %%
def reconstruct(view) -> Tensor:
    ### BEGIN SOLUTION
    client, z = view.client_model.requires_grad_(False), view.smashed
    public = data.load("digits").train.images
    mean = public.mean(0)
    _, strengths, axes = torch.linalg.svd((public - mean).flatten(1), full_matrices=False)
    basis = axes[:60] * strengths[:60, None] / len(public) ** 0.5  # one deviation of each component
    factors = torch.zeros(len(z), 60).requires_grad_()
    optimizer = Adam([factors], lr=0.05)
    for _ in range(300):
        images = mean + (factors @ basis).reshape(-1, *mean.shape)
        loss = (client(images) - z).square().mean() / z.var() + 0.01 * factors.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return images.detach().clamp(0, 1)
    ### END SOLUTION


# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
check("05.challenge", reconstruct)

# %%
# hint("05.challenge")

# %% [markdown]
# ## Review
#
# Three questions, never graded. Open an option to see what it is worth: click on it, or reach it
# with the Tab key and press Enter.

# %%
quiz("05")

# %% [markdown]
# ## How far you are

# %%
progress("05")
