# %% [markdown]
# # Exercises 02: who sees what
#
# For [lesson 02](../course/02_threat_model.ipynb). You write the rule that a view follows, find
# labels on the wire under other names, read the small print of some papers, catch clones that were
# never stolen, and steer a client from the server's side. About two hours; each task stands alone,
# so skip what does not draw you.
#
# `check` tells at once whether an answer is right, and if not, why. `hint` gives one hint after
# another. Both can be called as often as you like: nothing is deducted, and nothing leaves your
# machine.

# %%
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from sltools.exercises import check, hint, progress, quiz

# %% [markdown]
# {{task 02.sees}}
#
# An attack asks a server's view for some names. Which of them is it refused? The server sees
#
# * what a message carried: `smashed`, `labels`, `features`, `feature_gradients`, `cut_gradients`;
# * its own `model`, and by the assumption of this course the client's `architecture`;
# * what was granted by name: `client_model`, `head_weight_gradients` or `anchor_labels`.
#
# It never sees `images` and `client_weights`.
#
# `kinds` lists the kinds of message that crossed the wire. They are named as in the transcript:
# `"smashed"`, `"labels"`, `"features"`, `"feature_gradient"`, `"cut_gradient"`, `"prediction"`.
# `grants` lists what was granted, `asked` the names that the attack asks for. Return a list of
# those that are refused, in the order of `asked`.


# %%
def refused(kinds: list[str], grants: list[str], asked: list[str]) -> list[str]:
    ### BEGIN SOLUTION
    carried = {
        "smashed": "smashed",
        "labels": "labels",
        "features": "features",
        "feature_gradients": "feature_gradient",
        "cut_gradients": "cut_gradient",
    }
    seen = {name for name, kind in carried.items() if kind in kinds}
    seen |= {"model", "architecture", *grants}
    return [name for name in asked if name not in seen]
    ### END SOLUTION


check("02.sees", refused)

# %% [markdown]
# Stuck? Take the `#` away.

# %%
# hint("02.sees")

# %% [markdown]
# {{task 02.baselines}}
#
# Before you score an attack on labels, score two guessers who have seen nothing: one who guesses
# at random among all `classes`, and one who always names the most frequent class.
#
# `labels` is $(N,)$, numbers from 0 to `classes` − 1; some classes may not occur. Return the two
# shares, from 0 to 1, that they are expected to get right.


# %%
def label_baselines(labels: Tensor, classes: int) -> tuple[float, float]:
    ### BEGIN SOLUTION
    return 1 / classes, labels.bincount().max().item() / len(labels)
    ### END SOLUTION


check("02.baselines", label_baselines)

# %%
# hint("02.baselines")

# %% [markdown]
# {{task 02.leak}}
#
# A client says that it sends no labels. You have the messages of one batch, and the true labels for
# a test. In which messages does a **column give the labels away**: the same value for the same
# label, and different values for different labels? The values themselves do not matter, for whoever
# keeps the messages soon knows what each of them means.
#
# `messages` maps names to tensors $(B, D)$, `labels` is $(B,)$. Return a list of the names of such
# messages.


# %%
def leaking(messages: dict[str, Tensor], labels: Tensor) -> list[str]:
    ### BEGIN SOLUTION
    same_label = labels[:, None] == labels[None]
    found = []
    for name, payload in messages.items():
        same_value = [column[:, None] == column[None] for column in payload.T]
        if any(torch.equal(same, same_label) for same in same_value):
            found.append(name)
    return found
    ### END SOLUTION


check("02.leak", leaking)

# %%
# hint("02.leak")

# %% [markdown]
# {{task 02.claims}}
#
# "Our attack needs nothing but the smashed data and the client's architecture." Each paper on your
# desk names what its attack needs, and the result of each attack carries its ledger, as
# `knowledge` does:
#
# ```python
# {"claims": ["smashed", "client architecture"],
#  "ledger": ["client architecture", "head weight gradients (granted)", "smashed"]}
# ```
#
# What has each paper **kept quiet**? That is everything in its ledger that its claims do not name,
# word by word: a claim without `(granted)` does not cover a grant. Claiming more than was used is
# no flaw.
#
# Return a list with one sorted list of texts for each paper, empty for an honest one.


# %%
def kept_quiet(papers: list[dict[str, list[str]]]) -> list[list[str]]:
    ### BEGIN SOLUTION
    return [sorted(set(paper["ledger"]) - set(paper["claims"])) for paper in papers]
    ### END SOLUTION


check("02.claims", kept_quiet)

# %%
# hint("02.claims")

# %% [markdown]
# {{task 02.clone}}
#
# An author simulated a victim and a number of attackers' clones in one program, with one seed here
# and there, and reports that the clones "converge quickly". Some of them began at the victim's own
# initial weights. Find them: a clone is **suspicious** if one of its weight tensors of at least 50
# numbers has a correlation with the victim's tensor of the same name above 0.5 in size, with either
# sign. (Tensors with fewer numbers may correlate by chance. The victim has been trained since, so
# do not look for equal numbers.)
#
# `victim` and the members of `clones` are networks of one architecture. Return a list of the places
# of the suspicious ones in `clones`, counted from 0, in rising order.


# %%
def suspicious(victim: nn.Sequential, clones: list[nn.Sequential]) -> list[int]:
    ### BEGIN SOLUTION
    def too_close(clone: nn.Sequential) -> bool:
        for mine, theirs in zip(clone.parameters(), victim.parameters(), strict=True):
            if mine.numel() >= 50:
                pair = torch.stack([mine.flatten(), theirs.flatten()]).detach()
                if torch.corrcoef(pair)[0, 1].abs() > 0.5:
                    return True
        return False

    return [place for place, clone in enumerate(clones) if too_close(clone)]
    ### END SOLUTION


check("02.clone", suspicious)

# %%
# hint("02.clone")

# %% [markdown]
# {{task 02.steer}}
#
# A malicious server replies to $z$ not with $\partial L / \partial z$ but with
# $\text{factor} \cdot z$. The client takes this for the gradient at $z$, goes back with it, and
# takes one step of plain gradient descent with learning rate `lr`. What becomes of
# $S = \tfrac12 \sum z^2$, the sum over all numbers of all images in the batch?
#
# Return a dictionary with
#
# * `"predicted"`: the change of $S$ **to first order**, from the gradients at the old weights only;
# * `"measured"`: the change that really happens: $S$ after the step minus $S$ before it, for the
#   same images.
#
# You are called with a positive and with a negative factor.


# %%
def steer(front: nn.Module, images: Tensor, factor: float, lr: float) -> dict:
    ### BEGIN SOLUTION
    def half_square() -> Tensor:
        return front(images).square().sum() / 2

    before = half_square()
    weights = list(front.parameters())
    pushes = torch.autograd.grad(before, weights)  # of S, whose gradient at z is z itself
    predicted = -lr * factor * sum(push.square().sum() for push in pushes)
    with torch.no_grad():
        for weight, push in zip(weights, pushes, strict=True):
            weight -= lr * factor * push
        after = half_square()
    return {"predicted": predicted, "measured": after - before.detach()}
    ### END SOLUTION


check("02.steer", steer)

# %%
# hint("02.steer")

# %% [markdown]
# {{task 02.challenge}}
#
# Real leaks are not as clean as those above. Write a detector: given a message and the true labels
# of its batch, how suspicious is it, as one number, the larger the more suspicious?
#
# It is called with 45 messages that leak labels of five classes in one column of twelve. In some
# this column grows with the number of the class, in some each class has a mean of its own, in some
# only the spread differs from class to class; the rest is noise. And it is called with the
# **controls**: 45 messages more of these kinds, each with its labels shuffled, so that nothing is
# leaked.
#
# Scored is the share of all pairs (a leak, a control) in which the leak is more suspicious; 50% is
# what a coin would get. The largest correlation of a column with the labels' numbers gets about
# 70%. More than that earns half of the points, 90% all of them.
#
# `payload` is $(80, 12)$, `labels` $(80,)$. Return a number.


# %%
def suspicion(payload: Tensor, labels: Tensor) -> float:
    ### BEGIN SOLUTION
    spread = (payload - payload.mean(0)).abs()
    columns = torch.cat([payload, spread], dim=1)
    members = one_hot(labels).float()
    counts = members.sum(0)
    means = members.T @ columns / counts.clamp(min=1)[:, None]  # of each class
    between = (counts[:, None] * (means - columns.mean(0)).square()).sum(0)
    inside = (columns - means[labels]).square().sum(0)
    return (between / inside).max().item()
    ### END SOLUTION


check("02.challenge", suspicion)

# %%
# hint("02.challenge")

# %% [markdown]
# ## Review
#
# Three questions, never graded. Open an option to see what it is worth: click on it, or reach it
# with the Tab key and press Enter.

# %%
quiz("02")

# %% [markdown]
# ## How far you are

# %%
progress("02")
