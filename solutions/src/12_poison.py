# %% [markdown]
# # Exercises 12: clients who cheat
#
# For [lesson 12](../course/12_poison.ipynb). You poison a batch, repair a claim of 100 per cent,
# find out how loud a cheater has to be, and then change sides: you compare clients as Krum, the
# trimmed mean and SafeSplit do, and in the end meet cheaters who know all of these. About two
# hours; each task stands alone, so skip what does not draw you.
#
# `check` tells at once whether an answer is right, and if not, why. `hint` gives one hint after
# another. Both can be called as often as you like: nothing is deducted, and nothing leaves your
# machine.

# %%
import math

import torch
from torch import Tensor

from sltools.exercises import check, hint, progress, quiz

# %% [markdown]
# {{task 12.stamp}}
#
# `images` $(N, C, H, W)$ and `labels` $(N,)$ are a client's data, `rows` the places of those to
# poison, `patch` $(s, s)$ the trigger. Put the patch into the **lower right corner** of these
# images, in all channels, with a margin of **one pixel** to both edges, and give them the label
# `target`. Return images and labels; those that you were given stay as they are.


# %%
def poison(
    images: Tensor, labels: Tensor, rows: Tensor, patch: Tensor, target: int
) -> tuple[Tensor, Tensor]:
    ### BEGIN SOLUTION
    images, labels, side = images.clone(), labels.clone(), len(patch)
    images[rows, :, -side - 1 : -1, -side - 1 : -1] = patch
    labels[rows] = target
    return images, labels
    ### END SOLUTION


check("12.stamp", poison)

# %% [markdown]
# Stuck? Take the `#` away.

# %%
# hint("12.stamp")

# %% [markdown]
# {{task 12.success}}
#
# A report counts all stamped images that are put in the target class, divided by all images:
# `(attacked.argmax(1) == target).float().mean()`. Two things are wrong with it. Images of the
# target class count as hits, and there is no baseline.
#
# `attacked` and `clean` are the logits $(N, 4)$ of two networks for the **same stamped images**:
# the one that was attacked, and one that nobody attacked. Return two shares: the success on the
# attacked network, and the same count on the clean one.


# %%
def fair_success(
    attacked: Tensor, clean: Tensor, labels: Tensor, target: int
) -> tuple[float, float]:
    ### BEGIN SOLUTION
    others = labels != target
    shares = [(logits.argmax(1)[others] == target).float().mean() for logits in (attacked, clean)]
    return shares[0].item(), shares[1].item()
    ### END SOLUTION


check("12.success", fair_success)

# %%
# hint("12.success")

# %% [markdown]
# {{task 12.copies}}
#
# $n$ clients have equally many images, $f$ of them cheat, and the server averages by numbers of
# samples. The cheaters repeat all of their images. **How many copies** do they need to weigh at
# least `share` of the average together? Return the least whole number.


# %%
def copies_needed(n: int, f: int, share: float) -> int:
    ### BEGIN SOLUTION
    return math.ceil(share * (n - f) / (f * (1 - share)))
    ### END SOLUTION


check("12.copies", copies_needed)

# %%
# hint("12.copies")

# %% [markdown]
# {{task 12.krum}}
#
# `vectors` $(n, D)$ are the layers of $n$ clients, of whom at most $f$ cheat. The score of a client
# is the sum of the **squared** distances to its $n - f - 2$ nearest **others**. Return all scores,
# $(n,)$.


# %%
def krum_scores(vectors: Tensor, f: int) -> Tensor:
    ### BEGIN SOLUTION
    apart = torch.cdist(vectors, vectors).square()
    return apart.sort(1).values[:, 1 : len(vectors) - f - 1].sum(1)
    ### END SOLUTION


check("12.krum", krum_scores)

# %%
# hint("12.krum")

# %% [markdown]
# {{task 12.trim}}
#
# `states` $(n, D)$ are the layers of $n$ clients. Of each weight leave out the `trim` largest and
# the `trim` smallest values, and return the mean of the rest, $(D,)$.


# %%
def trimmed_mean(states: Tensor, trim: int) -> Tensor:
    ### BEGIN SOLUTION
    return states.sort(0).values[trim : len(states) - trim].mean(0)
    ### END SOLUTION


check("12.trim", trimmed_mean)

# %%
# hint("12.trim")

# %% [markdown]
# {{task 12.rollback}}
#
# `static` and `rotational` are the two scores of the last $n$ turns, oldest first. A turn is benign
# if it is among the $\lfloor n/2 \rfloor + 1$ lowest in both. Return how many turns the server goes
# back: 0 if the last turn is benign, 1 if the one before is the newest that is, and so on.


# %%
def turns_back(static: Tensor, rotational: Tensor) -> int:
    ### BEGIN SOLUTION
    n = len(static)
    lowest = [set(scores.argsort()[: n // 2 + 1].tolist()) for scores in (static, rotational)]
    return n - 1 - max(lowest[0] & lowest[1])
    ### END SOLUTION


check("12.rollback", turns_back)

# %%
# hint("12.rollback")

# %% [markdown]
# {{task 12.challenge}}
#
# Ten clients send their layers, `states` $(10, 400)$. In some rounds three of them cheat. They know
# the mean and the standard deviation of the honest, and your rule, and all go **one standard
# deviation** below the mean, each with a little noise of its own: no value of theirs stands out,
# and the median of each weight follows them. In other rounds nobody cheats.
#
# Return the layers to go on with, $(400,)$. What counts is the distance to the mean of the honest
# clients, beside that of the median of each weight: at most two fifths of it where three cheat, and
# seven tenths where nobody does, for all points.


# %%
def robust(states: Tensor) -> Tensor:
    ### BEGIN SOLUTION
    apart = torch.cdist(states, states)
    apart.fill_diagonal_(math.inf)
    nearest = apart.min(1).values
    return states[nearest > 0.7 * nearest.median()].mean(0)
    ### END SOLUTION


check("12.challenge", robust)

# %%
# hint("12.challenge")

# %% [markdown]
# ## Review
#
# Four questions, never graded. Open an option to see what it is worth: click on it, or reach it
# with the Tab key and press Enter.

# %%
quiz("12")

# %% [markdown]
# ## How far you are

# %%
progress("12")
