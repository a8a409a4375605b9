# %% [markdown]
# # Exercises 08: defences
#
# For [lesson 08](../course/08_defences.ipynb). You build a defence that keeps its promise, foretell
# what its noise is worth when a message comes again, count people who lie by lot, measure a leak,
# and repair a report in which nobody was ever hurt. At the end you read through a noise. About two
# and a half hours; each task stands alone, so skip what does not draw you.
#
# `check` tells at once whether an answer is right, and if not, why. `hint` gives one hint after
# another. Both can be called as often as you like: nothing is deducted, and nothing leaves your
# machine.

# %%
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from sltools.attacks import networks
from sltools.exercises import check, hint, progress, quiz

# %% [markdown]
# {{task 08.local_noise}}
#
# Local differential privacy of one message: shorten the smashed data of each sample to a norm of at
# most $C$, then add normal noise of standard deviation $m \cdot 2C$ to each entry. ($2C$ because
# that is how far apart two shortened samples can be.)
#
# `z` is $(B, C, H, W)$, `clip` is $C$, `multiplier` is $m$, and `noise` is drawn for you: standard
# normal, of the shape of `z`. Return the message.


# %%
def privatise(z: Tensor, clip: float, multiplier: float, noise: Tensor) -> Tensor:
    ### BEGIN SOLUTION
    norms = z.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return z * (clip / norms).clamp_max(1) + multiplier * 2 * clip * noise
    ### END SOLUTION


check("08.local_noise", privatise)

# %% [markdown]
# Stuck? Take the `#` away.

# %%
# hint("08.local_noise")

# %% [markdown]
# {{task 08.average}}
#
# A client adds noise of standard deviation $\sigma$, drawn anew for each message. The server gets
# $n$ messages of the **same** images and takes their mean. First predict, then measure:
#
# * **predict** the standard deviation of the noise that is left in the mean, from $\sigma$ and $n$;
# * **measure** it: the root of the mean square of what the mean differs by from `z`.
#
# `sent` is $(n, B, C, H, W)$; `z` is $(B, C, H, W)$, the smashed data without noise. No attacker
# has `z`. You have it, to measure. Return the two numbers.


# %%
def predict_and_average(sent: Tensor, z: Tensor, sigma: float) -> tuple[float, float]:
    ### BEGIN SOLUTION
    predicted = sigma / math.sqrt(len(sent))
    measured = (sent.mean(0) - z).square().mean().sqrt()
    return predicted, measured.item()
    ### END SOLUTION


check("08.average", predict_and_average)

# %%
# hint("08.average")

# %% [markdown]
# {{task 08.shares}}
#
# A vanilla client sends its labels by **randomised response**: the true one with probability $p =
# e^\varepsilon / (e^\varepsilon + K - 1)$, and each of the $K - 1$ others with probability $q = 1 /
# (e^\varepsilon + K - 1)$. No single answer can be trusted. How many samples of each class are
# there, nevertheless?
#
# `answers` is $(N,)$ with entries from 0 to $K - 1$. Return an estimate, of shape $(K,)$, of the
# share of each class among the **true** labels: the one that is right on average. It may be below
# 0.


# %%
def true_shares(answers: Tensor, epsilon: float, classes: int) -> Tensor:
    ### BEGIN SOLUTION
    seen = answers.bincount(minlength=classes) / len(answers)
    total = math.exp(epsilon) + classes - 1
    p, q = math.exp(epsilon) / total, 1 / total
    return (seen - q) / (p - q)
    ### END SOLUTION


check("08.shares", true_shares)

# %%
# hint("08.shares")

# %% [markdown]
# {{task 08.leak_auc}}
#
# The length of $\partial L/\partial u$ gives a rare class away. How well? The **leak AUC** is the
# chance that a rare sample has a higher score than a common one, where a tie counts half.
#
# `scores` is $(N,)$; `rare` is $(N,)$, 1 for a rare sample and 0 for a common one. Return the AUC.


# %%
def leak_auc(scores: Tensor, rare: Tensor) -> float:
    ### BEGIN SOLUTION
    high, low = scores[rare == 1][:, None], scores[rare == 0]
    return ((high > low).float() + 0.5 * (high == low).float()).mean().item()
    ### END SOLUTION


check("08.leak_auc", leak_auc)

# %%
# hint("08.leak_auc")

# %% [markdown]
# {{task 08.fair_report}}
#
# A vendor let three attacks loose on its defence, each with five seeds, and reports one number, the
# higher the safer:
#
# ```python
# def fair_report(inputs, truth):
#     errors = (inputs - truth).square().mean((3, 4, 5))
#     return errors[0].mean()
# ```
#
# Three choices flatter the defence. Mend all three: of each attack and seed take the image that
# came out **best** (somebody is in it), of each attack the **median** over the seeds, and then the
# **strongest** attack.
#
# `inputs` is $(A, S, N, C, H, W)$: attacks, seeds, images; $S$ is odd. `truth` is $(N, C, H, W)$.


# %%
def fair_report(inputs: Tensor, truth: Tensor) -> float:
    ### BEGIN SOLUTION
    errors = (inputs - truth).square().mean((3, 4, 5))
    return errors.amin(2).median(1).values.min().item()
    ### END SOLUTION


check("08.fair_report", fair_report)

# %%
# hint("08.fair_report")

# %% [markdown]
# {{task 08.challenge}}
#
# A client of digits, cut after `pool1`, sends ten private images four times each, with noise of
# standard deviation `scale` on every entry: more than the smashed data themselves vary. You know
# the noise's size and not its draws. You are granted the client's layers, and there are public
# images. The private ones are collages, made of quarters of four digits each: no public image is
# one of them.
#
# `front` is the client's `nn.Sequential`, `sent` $(4, 10, 8, 12, 12)$ what arrived, `public` $(N,
# 1, 28, 28)$. Return your reconstructions, $(10, 1, 28, 28)$.
#
# You may use all of `sltools`, or nothing of it. You meet three fresh clients; on each, your median
# MSE is divided by that of the mean image, and the median of the three ratios is scored: down to
# 0.75 earns half of the points, down to 0.5 all of them. On the first client you are called a
# second time, with the messages of other images: what does not follow the messages is no attack.
# Keep each call below half a minute.


# %%
def attack(front: nn.Sequential, sent: Tensor, public: Tensor, scale: float) -> Tensor:
    ### BEGIN SOLUTION
    left = scale / len(sent) ** 0.5
    with torch.no_grad():
        z = front(public)
    decoder = networks.decoder(tuple(z.shape[1:]), tuple(public.shape[1:]), seed=0)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 160)
    draws = torch.Generator().manual_seed(0)
    for _ in range(160):
        rows = torch.randint(len(public), (32,), generator=draws)
        noisy = z[rows] + left * torch.randn(z[rows].shape, generator=draws)
        loss = binary_cross_entropy(decoder(noisy), public[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return decoder(sent.mean(0)).detach()
    ### END SOLUTION


# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
check("08.challenge", attack)

# %%
# hint("08.challenge")

# %% [markdown]
# ## Review
#
# Three questions, never graded. Open an option to see what it is worth: click on it, or reach it
# with the Tab key and press Enter.

# %%
quiz("08")

# %% [markdown]
# ## How far you are

# %%
progress("08")
