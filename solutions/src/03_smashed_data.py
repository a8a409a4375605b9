# %% [markdown]
# # Exercises 03: what smashed data give away
#
# For [lesson 03](../course/03_smashed_data.ipynb). You undo what can be undone, count what cannot,
# measure how much smashed data say without any attack, and see through a defence. About two hours;
# each task stands alone, so skip what does not draw you.
#
# In all tasks the attacker **knows the client's weights**, as in the lesson: `front` is the
# client's part, granted by name. `check` tells at once whether an answer is right, and if not, why.
# `hint` gives one hint after another. Both can be called as often as you like.

# %%
import copy
import statistics

import torch
from torch import Tensor, nn

from sltools.exercises import check, hint, progress, quiz

# %% [markdown]
# {{task 03.relu}}
#
# The client sends $z = \max(a, 0)$. From the range of the pixels and the weights the attacker has
# worked out that no activation $a$ can be below `least`, a negative number.
#
# `smashed` is $z$. Return two tensors of its shape: the least and the greatest value that each $a$
# can have.


# %%
def unrelu(smashed: Tensor, least: float) -> tuple[Tensor, Tensor]:
    ### BEGIN SOLUTION
    low = torch.where(smashed > 0, smashed, torch.full_like(smashed, least))
    return low, smashed
    ### END SOLUTION


check("03.relu", unrelu)

# %% [markdown]
# Stuck? Take the `#` away.

# %%
# hint("03.relu")

# %% [markdown]
# {{task 03.linear}}
#
# A client's only layer is linear: $z = W x + b$. In practice the numbers are not exact (they were
# rounded, or some noise was added), so look for the input that explains them best: the one of least
# $\lVert W x + b - z \rVert^2$, the solution by *least squares*. If several inputs explain them
# equally well, return the one of least norm $\lVert x \rVert$.
#
# `weight` is $(M, D)$, `bias` $(M,)$ and `smashed` $(N, M)$, with one row for each image; $M$ may
# be larger or smaller than $D$. Return the inputs, $(N, D)$.


# %%
def invert_linear(weight: Tensor, bias: Tensor, smashed: Tensor) -> Tensor:
    ### BEGIN SOLUTION
    return (smashed - bias) @ torch.linalg.pinv(weight).T
    ### END SOLUTION


check("03.linear", invert_linear)

# %%
# hint("03.linear")

# %% [markdown]
# {{task 03.match}}
#
# Sometimes nothing has to be recovered. An attacker has a **gallery** of images, say the photos of
# all employees, and wants to know which of them a client is processing. Find for each smashed datum
# the image of the gallery whose own smashed data lie nearest to it: the least Euclidean distance
# over all numbers. (The client adds a little noise, so they are never equal.)
#
# `smashed` is $(N, c, h, w)$, `gallery` $(G, C, H, W)$. Return a tensor $(N,)$ of places in the
# gallery, counted from 0.


# %%
def who_is_it(front: nn.Module, smashed: Tensor, gallery: Tensor) -> Tensor:
    ### BEGIN SOLUTION
    with torch.no_grad():
        known = front(gallery)
    return torch.cdist(smashed.flatten(1), known.flatten(1)).argmin(1)
    ### END SOLUTION


check("03.match", who_is_it)

# %%
# hint("03.match")

# %% [markdown]
# {{task 03.dcor}}
#
# Can the leak be measured without an attack? The **distance correlation** asks: are two images far
# apart wherever their smashed data are? It is 1 if the distances are the same up to a factor,
# and for independent data it goes to 0 as the batch grows. The defence *NoPeek* trains the client
# to make it small.
#
# For $N$ images let $D_{ij}$ be the Euclidean distance between images $i$ and $j$ (as rows of
# pixels). *Centre* this matrix: take away from each entry the mean of its row and the mean of its
# column, and add the mean of all entries. Call the result $A$, and $B$ what you get in the same way
# from the smashed data. Then, with means over all $N^2$ entries,
#
# $$\mathrm{dCor} = \sqrt{\frac{\operatorname{mean}(A_{ij} B_{ij})}
# {\sqrt{\operatorname{mean}(A_{ij}^2)\,\operatorname{mean}(B_{ij}^2)}}} .$$
#
# `images` is $(N, C, H, W)$, `smashed` $(N, \dots)$. Return one number.


# %%
def distance_correlation(images: Tensor, smashed: Tensor) -> Tensor:
    ### BEGIN SOLUTION
    def centred(samples: Tensor) -> Tensor:
        rows = samples.flatten(1).double()
        apart = torch.cdist(rows, rows)
        return apart - apart.mean(0) - apart.mean(1, keepdim=True) + apart.mean()

    a, b = centred(images), centred(smashed)
    scale = (a.square().mean() * b.square().mean()).sqrt()
    return ((a * b).mean() / scale).sqrt()
    ### END SOLUTION


check("03.dcor", distance_correlation)

# %%
# hint("03.dcor")

# %% [markdown]
# {{task 03.rank}}
#
# Predict first, then measure. For one `image` $(C, H, W)$ and a client's `front`, return a
# dictionary with
#
# * `"enough"`, your prediction from the plain count: `True` if at least as many numbers are sent as
#   the image has pixels, else `False`;
# * `"zeros"`: how many of the numbers sent are exactly zero;
# * `"rank"`: how many are independent, which is the rank of $J = \partial z / \partial x$ at this
#   image, a matrix of $|z|$ rows and $|x|$ columns.
#
# You are called with three clients. For one of them the prediction is wrong. Which one, and why?


# %%
def count_and_measure(front: nn.Sequential, image: Tensor) -> dict:
    ### BEGIN SOLUTION
    exact = copy.deepcopy(front).double()

    def send(pixels: Tensor) -> Tensor:
        return exact(pixels[None]).flatten()

    sent = send(image.double())
    jacobian = torch.func.jacrev(send)(image.double()).flatten(1)
    return {
        "enough": sent.numel() >= image.numel(),
        "zeros": int((sent == 0).sum()),
        "rank": int(torch.linalg.matrix_rank(jacobian)),
    }
    ### END SOLUTION


check("03.rank", count_and_measure)

# %%
# hint("03.rank")

# %% [markdown]
# {{task 03.honest}}
#
# An attack was run seven times from different starts, on the same private images. Its author wrote:
#
# ```python
# def score_attack(found, objectives, truth, train):
#     errors = []
#     for images in found:  # one run
#         images = metrics.affine_align(images, truth).aligned  # best gain and offset
#         errors.append((images - truth).square().mean((1, 2, 3)).median())
#     blank = truth.square().mean((1, 2, 3)).median()  # the error of an image of zeros
#     return min(errors) / blank
# ```
#
# Three choices flatter the attack. Mend them: **choose** the run by what the attacker can see, the
# least of `objectives`; **score** its images as they are; **compare** with the mean image of the
# training set. Return the ratio: the median MSE of the attack over the median MSE of the mean
# image, medians over the private images.
#
# `found` is $(7, N, C, H, W)$, `objectives` $(7,)$, `truth` $(N, C, H, W)$ with an odd $N$, and
# `train` holds the training images.


# %%
def score_attack(found: Tensor, objectives: Tensor, truth: Tensor, train: Tensor) -> float:
    ### BEGIN SOLUTION
    def error(images: Tensor) -> float:
        return statistics.median((images - truth).square().mean((1, 2, 3)).tolist())

    return error(found[objectives.argmin()]) / error(train.mean(0))
    ### END SOLUTION


check("03.honest", score_attack)

# %%
# hint("03.honest")

# %% [markdown]
# {{task 03.challenge}}
#
# Digits, cut after `pool2`, twenty private images. The client defends itself: to every number that
# it sends it adds Gaussian noise, with a standard deviation of a quarter of that of $z$. It has
# tried `KnownWeightsInversion()` on itself, found that the result is worse than the mean image, and
# is content.
#
# `view` is the server's view of one inference, with `client_model` granted. Return your
# reconstructions, $(20, 1, 28, 28)$. The private images have $8 \times 8$ pixels, enlarged as in
# the lesson, and are in no data set: each is a collage of quarters of four test images, which were
# turned and moved a little.
#
# Public images are allowed: you may take `data.load("digits").train.images` for them. (Say so when
# you report such an attack.) You can do without. Scored is the median MSE beside two baselines: the
# mean of the public images, and for each private image the public one whose smashed data come
# nearest. 20% below the better of the two earns half of the points, 50% below it all of them.
# Your attack is called twice, the second time with the smashed data of other images: what does not
# follow the smashed data is no attack. Keep it below ten seconds.

# %%
from torch.nn.functional import interpolate


def attack(view) -> Tensor:
    ### BEGIN SOLUTION
    front, smashed = view.client_model, view.smashed
    small = torch.full((len(smashed), 1, 8, 8), 0.2).requires_grad_()
    optimiser = torch.optim.Adam([small], lr=0.1)
    steps = 250
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        images = interpolate(small, size=(28, 28), mode="bilinear")
        feature_loss = (front(images) - smashed).square().mean() / smashed.var()
        smooth = images.diff(dim=2).square().mean() + images.diff(dim=3).square().mean()
        small.grad = torch.autograd.grad(feature_loss + 0.7 * smooth, small)[0]
        optimiser.step()
        schedule.step()
        small.data.clamp_(0, 1)
    return interpolate(small, size=(28, 28), mode="bilinear")
    ### END SOLUTION


check("03.challenge", attack)

# %%
# hint("03.challenge")

# %% [markdown]
# ## Review
#
# Three questions, never graded. Open an option to see what it is worth: click on it, or reach it
# with the Tab key and press Enter.

# %%
quiz("03")

# %% [markdown]
# ## How far you are

# %%
progress("03")
