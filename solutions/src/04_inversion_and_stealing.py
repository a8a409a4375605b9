# %% [markdown]
# # Exercises 04: inversion and stealing
#
# For [lesson 04](../course/04_inversion_and_stealing.ipynb). You write the pieces of *UnSplit*,
# build one of its traps yourself, and repair two evaluations. About two hours; each task stands
# alone, so skip what does not draw you.
#
# `check` tells at once whether an answer is right, and if not, why. `hint` gives one hint after
# another. Both can be called as often as you like: nothing is deducted, and nothing leaves your
# machine.

# %%
import statistics

import torch
from torch import Tensor, nn

from sltools.exercises import check, hint, progress, quiz

# %% [markdown]
# {{task 04.tv}}
#
# Many images explain the same smashed data. A *prior* says which of them looks like an image. The
# paper takes the *total variation*: over all pairs of pixels that are neighbours, the mean of the
# squared difference; once for pairs above each other, once for pairs side by side, added up.
#
# `images` is a batch $(N, C, H, W)$. Return one number for the whole batch, a tensor of shape ().


# %%
def total_variation(images: Tensor) -> Tensor:
    ### BEGIN SOLUTION
    down = images[..., 1:, :] - images[..., :-1, :]
    across = images[..., :, 1:] - images[..., :, :-1]
    return down.square().mean() + across.square().mean()
    ### END SOLUTION


check("04.tv", total_variation)

# %% [markdown]
# Stuck? Take the `#` away.

# %%
# hint("04.tv")

# %% [markdown]
# {{task 04.feature_loss}}
#
# The *feature loss* compares what the clone makes of the guess with the smashed data: a mean
# squared error. Its size depends on the cut, because activations grow and shrink from layer to
# layer. Divide it by the variance of the smashed data, so that 1 means "no better than a constant".
#
# `guess` and `smashed` have one shape, $(N, \dots)$. Return a tensor of shape ().


# %%
def feature_loss(guess: Tensor, smashed: Tensor) -> Tensor:
    ### BEGIN SOLUTION
    return (guess - smashed).square().mean() / smashed.var()
    ### END SOLUTION


check("04.feature_loss", feature_loss)

# %%
# hint("04.feature_loss")

# %% [markdown]
# {{task 04.step}}
#
# Take the loss $L = \operatorname{mean}\,(f_{\tilde\theta}(\tilde x) - z)^2$, without priors. Move
# the guessed images $\tilde x$ and the clone's weights $\tilde\theta$ **at the same time** one step
# of plain gradient descent with learning rate `lr`, then clamp the images to $[0, 1]$.
#
# Return the new images and a list of the clone's new weights, in the order of
# `clone.parameters()`.


# %%
def unsplit_step(
    inputs: Tensor, clone: nn.Module, smashed: Tensor, lr: float
) -> tuple[Tensor, list[Tensor]]:
    ### BEGIN SOLUTION
    inputs = inputs.detach().requires_grad_()
    weights = list(clone.parameters())
    loss = (clone(inputs) - smashed).square().mean()
    gradient, *pushes = torch.autograd.grad(loss, [inputs, *weights])
    moved = (inputs - lr * gradient).clamp(0, 1).detach()
    return moved, [(w - lr * push).detach() for w, push in zip(weights, pushes, strict=True)]
    ### END SOLUTION


check("04.step", unsplit_step)

# %%
# hint("04.step")

# %% [markdown]
# {{task 04.negative}}
#
# A client's first layer is a convolution without padding, $z = W * x + b$. Somewhere there is
# another client that sends **the same** $z$ for the *negative* $1 - x$. Give its weight and bias.
#
# `weight` is $(K, C, k, k)$, `bias` $(K,)$. Return the pair of new ones.


# %%
def negative_client(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    ### BEGIN SOLUTION
    return -weight, bias + weight.sum(dim=(1, 2, 3))
    ### END SOLUTION


check("04.negative", negative_client)

# %%
# hint("04.negative")

# %% [markdown]
# {{task 04.clone_score}}
#
# Somebody evaluated a stolen client like this:
#
# ```python
# def score_clone(clone, front, rest, images, labels):
#     says = rest(front(images)).argmax(1)
#     accuracy = (says == labels).double().mean().item()
#     agreement = (rest(clone(images)).argmax(1) == labels).double().mean().item()
#     return accuracy, agreement
# ```
#
# `front` is the victim's part, `clone` the stolen copy, `rest` the server's part, which the
# attacker has anyway. Write it right: the *accuracy* of the network made with the stolen part, and
# its *agreement* with the victim's network, both from 0 to 1.


# %%
def score_clone(
    clone: nn.Module, front: nn.Module, rest: nn.Module, images: Tensor, labels: Tensor
) -> tuple[float, float]:
    ### BEGIN SOLUTION
    with torch.no_grad():
        claims = rest(clone(images)).argmax(1)
        says = rest(front(images)).argmax(1)
    accuracy = (claims == labels).double().mean().item()
    agreement = (claims == says).double().mean().item()
    return accuracy, agreement
    ### END SOLUTION


check("04.clone_score", score_clone)

# %%
# hint("04.clone_score")

# %% [markdown]
# {{task 04.fair_score}}
#
# An author attacked ten images with five seeds and scored it like this:
#
# ```python
# def fair_score(inputs, truth):
#     best = 1.0
#     for images in inputs:  # one seed
#         low = images.amin((1, 2, 3), keepdim=True)
#         high = images.amax((1, 2, 3), keepdim=True)
#         images = (images - low) / (high - low)
#         errors = (images - truth).square().mean((1, 2, 3))
#         best = min(best, errors.min().item())
#     return best
# ```
#
# Three choices flatter the attack. Mend all three: score the images as they are, and report the
# median over the seeds of the median over the images (`statistics.median`, which for an even number
# of values takes the mean of the two in the middle).
#
# `inputs` is $(S, N, C, H, W)$, one batch for each seed; `truth` is $(N, C, H, W)$.


# %%
def fair_score(inputs: Tensor, truth: Tensor) -> float:
    ### BEGIN SOLUTION
    errors = (inputs - truth).square().mean((2, 3, 4))
    return statistics.median(statistics.median(row) for row in errors.tolist())
    ### END SOLUTION


check("04.fair_score", fair_score)

# %%
# hint("04.fair_score")

# %% [markdown]
# {{task 04.challenge}}
#
# Digits, cut after `conv2`: here the default settings leave much to be gained. The ten private
# images are collages, made of quarters of four digits each. `view` is the server's view of one
# inference. Return your reconstructions, $(10, 1, 28, 28)$.
#
# You may use all of `sltools`, or nothing of it. Your attack meets three fresh victims, each
# trained for a moment only. On each, its median MSE is divided by that of `UnSplit(steps=120)` on
# the same view, the median of five clones; your score is the median of the three ratios. Up to 0.6
# earns half of the points, up to 0.4 all of them. On the first victim it is called a second time,
# with the smashed data of other images: what does not follow the smashed data is no attack. Keep
# each call below half a minute.


# %%
from sltools.attacks import UnSplit


def attack(view) -> Tensor:
    ### BEGIN SOLUTION
    return UnSplit(steps=500, restarts=4)(view).inputs
    ### END SOLUTION


# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
check("04.challenge", attack)

# %%
# hint("04.challenge")

# %% [markdown]
# ## Review
#
# Three questions, never graded. Open an option to see what it is worth: click on it, or reach it
# with the Tab key and press Enter.

# %%
quiz("04")

# %% [markdown]
# ## How far you are

# %%
progress("04")
