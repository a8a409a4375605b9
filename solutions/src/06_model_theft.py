# %% [markdown]
# # Exercises 06: what a stolen client is worth
#
# For [lesson 06](../course/06_model_theft.ipynb). You tell a copy from a network that is merely as
# good, take a step that fools the stolen network, repair a figure about fooling the victim,
# disguise a clone from whoever compares weights one by one, and foretell what a few labels can
# move. At the end five poor clones must fool a victim together. About two hours; each task stands
# alone, so skip what does not draw you.
#
# `check` tells at once whether an answer is right, and if not, why. `hint` gives one hint after
# another. Both can be called as often as you like: nothing is deducted, and nothing leaves your
# machine.

# %%
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from sltools.exercises import check, hint, progress, quiz

# %% [markdown]
# Throughout, the victim is $g \circ f$: the client's layers $f$, then the server's layers $g$. The
# thief has $g$ and a clone of $f$.
#
# {{task 06.agreement}}
#
# Two networks agree on a share $a$ of the images. How much of that do they owe to being good?
# Within the images of one true class $y$, let the victim call a share $v_{yc}$ of them $c$, and the
# other network a share $w_{yc}$. If the mistakes of each fell on any images of the class, whatever
# the other does, they would agree on
#
# $$e = \frac1N \sum_y n_y \sum_c v_{yc}\, w_{yc}$$
#
# of all $N$ images, $n_y$ of which are of class $y$. Return the agreement beyond that, as a share
# of the most there can be: $(a - e)/(1 - e)$.
#
# `victim` and `other` are what the two networks say, `labels` the true classes; each is $(N,)$,
# whole numbers from 0.


# %%
def beyond_chance(victim: Tensor, other: Tensor, labels: Tensor) -> float:
    ### BEGIN SOLUTION
    truth, v, w = (one_hot(said, 10).float() for said in (labels, victim, other))
    sizes = truth.sum(0).clamp(min=1)
    within = ((truth.T @ v) * (truth.T @ w)).sum(1) / sizes**2
    expected = (sizes * within).sum() / len(labels)
    agreement = (victim == other).float().mean()
    return ((agreement - expected) / (1 - expected)).item()
    ### END SOLUTION


check("06.agreement", beyond_chance)

# %% [markdown]
# Stuck? Take the `#` away.

# %%
# hint("06.agreement")

# %% [markdown]
# {{task 06.step}}
#
# Change each pixel by at most $\varepsilon$ so that the stolen network errs. The quickest way is
# one step, the **fast gradient sign method** (FGSM, Goodfellow et al. 2015):
#
# $$x' = \Pi_{[0,1]}\big(x + \varepsilon \operatorname{sign} \nabla_x \ell(g(\tilde f(x)), y)\big)
# ,$$
#
# where $\ell$ is the cross-entropy, and $\Pi_{[0,1]}$ puts each pixel back into $[0, 1]$. The
# victim itself is not at hand; you have the clone $\tilde f$.
#
# `clone` and `g` are networks, `images` is $(B, 1, H, W)$, `labels` $(B,)$. `g(clone(images))` are
# logits. Return the changed images.


# %%
def adversarial(
    clone: nn.Sequential, g: nn.Sequential, images: Tensor, labels: Tensor, epsilon: float
) -> Tensor:
    ### BEGIN SOLUTION
    x = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(g(clone(x)), labels), x)
    return (images + epsilon * slope.sign()).clamp(0, 1)
    ### END SOLUTION


check("06.step", adversarial)

# %%
# hint("06.step")

# %% [markdown]
# {{task 06.fair_transfer}}
#
# A report says how many images prepared on a clone fool the victim. This is how it was counted:
#
# ```python
# def fair_transfer(victim, images, labels, changed, signs, epsilon):
#     fooled = (victim(changed).argmax(1) != labels).float().mean().item()
#     return fooled, 0.0  # the share fooled by the clone's images, and a baseline
# ```
#
# `victim` is the whole network. `images` are as they were, `changed` the same ones as prepared on
# the clone, both $(N, 1, H, W)$; `labels` is $(N,)$. The rules of the game allow each pixel to
# change by at most `epsilon`. Three things flatter the attack:
#
# * Some images are counted that the victim gets wrong **without** the attack. Leave them out.
# * Some images were changed by more than `epsilon`. They count as tried and **not** fooled.
# * The baseline is missing: the share fooled by noise of the same size, on the same images. Add
#   `epsilon` times `signs`, which holds $+1$ and $-1$ at random, and put the pixels back into
#   $[0, 1]$.
#
# Mend all three; return the two shares.


# %%
def fair_transfer(
    victim: nn.Sequential,
    images: Tensor,
    labels: Tensor,
    changed: Tensor,
    signs: Tensor,
    epsilon: float,
) -> tuple[float, float]:
    ### BEGIN SOLUTION
    right = victim(images).argmax(1) == labels
    allowed = (changed - images).abs().flatten(1).amax(1) <= epsilon
    fooled = (victim(changed).argmax(1) != labels) & allowed
    noisy = (images + epsilon * signs).clamp(0, 1)
    by_noise = victim(noisy).argmax(1) != labels
    return fooled[right].float().mean().item(), by_noise[right].float().mean().item()
    ### END SOLUTION


check("06.fair_transfer", fair_transfer)

# %%
# hint("06.fair_transfer")

# %% [markdown]
# {{task 06.disguise}}
#
# Can a stolen network be recognised by its weights? Put its hidden channels into another order,
# multiply each by a positive number, and let the next layer undo both: since
# $\operatorname{relu}(s\,a) = s \operatorname{relu}(a)$ for $s > 0$, every answer stays as it was.
# When yours is right, the check compares the weights with the old ones in two ways, one by one and
# channel by channel, in whatever order and length, and does the same for a network that nobody
# stole. Which way finds the thief?
#
# `front` is `nn.Sequential(nn.Conv2d(1, C, 3), nn.ReLU(), nn.Conv2d(C, C, 3))`, `order` a
# permutation and `scale` positive numbers, both $(C,)$. Hidden channel $j$ of the disguised network
# shall be `scale[j]` times hidden channel `order[j]` of `front`, and the disguised network shall
# answer as `front` does. Return its four tensors in the order of `front.parameters()`: weight and
# bias of the first layer, weight and bias of the second.


# %%
def disguise(front: nn.Sequential, order: Tensor, scale: Tensor) -> list[Tensor]:
    ### BEGIN SOLUTION
    w1, b1, w2, b2 = (weight.detach() for weight in front.parameters())
    return [
        scale[:, None, None, None] * w1[order],
        scale * b1[order],
        w2[:, order] / scale[:, None, None],
        b2,
    ]
    ### END SOLUTION


check("06.disguise", disguise)

# %%
# hint("06.disguise")

# %% [markdown]
# {{task 06.moves}}
#
# A thief with a few labelled images may leave the stolen layers as they are, **frozen**, and
# train only the last one. How much of it do the images reach in one step of gradient descent,
# $w \leftarrow w - \mathrm{lr} \cdot \partial \ell / \partial w$, with the mean cross-entropy
# $\ell$ over all of them?
#
# * **Predict** how many weights (with biases: entries, not tensors) will move, from the features
#   `front(images)` alone. A feature is what the front's ReLU leaves, so it may be zero; the
#   gradient of a weight of the head is a sum over the images of terms that hold its feature as a
#   factor.
# * **Measure** it: take the step, and count the entries that differ from before, those of the front
#   included.
#
# `front` ends in a ReLU and gives $(B, D)$; `head` is an `nn.Sequential` of one linear layer;
# `images` is $(B, 1, 4, 4)$, `labels` $(B,)$. Return both counts.


# %%
def predict_and_train(
    front: nn.Sequential, head: nn.Sequential, images: Tensor, labels: Tensor, lr: float
) -> tuple[int, int]:
    ### BEGIN SOLUTION
    front.requires_grad_(False)
    features = front(images)
    alive = int((features > 0).any(0).sum())
    predicted = (alive + 1) * len(head[0].bias)

    weights = [*front.parameters(), *head.parameters()]
    before = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.SGD([w for w in weights if w.requires_grad], lr=lr)
    cross_entropy(head(features), labels).backward()
    optimizer.step()
    moved = sum(int((w != old).sum()) for w, old in zip(weights, before, strict=True))
    return predicted, moved
    ### END SOLUTION


check("06.moves", predict_and_train)

# %%
# hint("06.moves")

# %% [markdown]
# {{task 06.challenge}}
#
# A thief in a hurry has five poor clones of one client, cut after `pool1`: UnSplit from five
# starting points, forty steps each. Make images that fool the victim.
#
# `clones` is a list of five networks, `g` the server's layers, so `g(clone(images))`, for each, are
# logits. `images` is $(B, 1, 28, 28)$, 40 digits that the victim recognises, with `labels`; change
# each pixel by at most `epsilon` = 0.2, and stay in $[0, 1]$. Return the changed images.
#
# Scored is how many images four victims still recognise. After one step on one clone (task 06.step)
# they recognise a certain number, in the mean over the clones: down to 0.7 of that earns half of
# the points. One step on all clones together, for the sum of their losses, leaves fewer: down to
# 0.75 of these earns all points. Your function is also called with five clones of **random**
# weights: what it does with these must fool the victims less, or it does not come from the theft.
# (They will fool some. So early in the network random layers are not bad at all, and `g` is real.)
# Keep it below two seconds a call.


# %%
def craft(
    clones: list[nn.Sequential], g: nn.Sequential, images: Tensor, labels: Tensor, epsilon: float
) -> Tensor:
    ### BEGIN SOLUTION
    changed = images.clone()
    for _ in range(10):
        x = changed.requires_grad_()
        logits = torch.stack([g(clone(x)) for clone in clones]).mean(0)
        (slope,) = torch.autograd.grad(cross_entropy(logits, labels), x)
        moved = changed.detach() + epsilon / 4 * slope.sign()
        changed = (images + (moved - images).clamp(-epsilon, epsilon)).clamp(0, 1)
    return changed
    ### END SOLUTION


# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
check("06.challenge", craft)

# %%
# hint("06.challenge")

# %% [markdown]
# ## Review
#
# Three questions, never graded. Open an option to see what it is worth: click on it, or reach it
# with the Tab key and press Enter.

# %%
quiz("06")

# %% [markdown]
# ## How far you are

# %%
progress("06")
