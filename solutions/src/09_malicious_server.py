# %% [markdown]
# # Exercises 09: a server that lies
#
# For [lesson 09](../course/09_malicious_server.ipynb). You build the two pieces of the hijacking
# that matter, foretell how far one message moves a client, and then change sides: you compute what
# a detector looks at, repair a vendor's figures, and catch a hijacker who hides behind an honest
# gradient. About two hours and a half; each task stands alone, so skip what does not draw you.
#
# `check` tells at once whether an answer is right, and if not, why. `hint` gives one hint after
# another. Both can be called as often as you like: nothing is deducted, and nothing leaves your
# machine.

# %%
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sltools.exercises import check, hint, progress, quiz

# %% [markdown]
# Throughout, $z$ are the client's smashed data, and what the **pilot** makes of public images is
# called `piloted`. Both have a row for each sample.
#
# {{task 09.penalty}}
#
# The critic is to score the client's $z$ high and the pilot's low. It minimises
#
# $$10 \cdot \operatorname{mean}_i\Big[\big(\|\nabla_{m_i}\, \mathrm{critic}(m_i)\| - 1\big)^2\Big]
#   - \big(\operatorname{mean} \mathrm{critic}(z)
#   - \operatorname{mean} \mathrm{critic}(\mathrm{piloted})\big) ,
#   \qquad m_i = s_i z_i + (1 - s_i)\,\mathrm{piloted}_i .$$
#
# `critic(weight, z)` below gives $B$ scores. `z` and `piloted` are $(B, D)$, `share` holds the
# $s_i$, shape $(B, 1)$. Return the loss, one number, such that `loss.backward()` teaches `weight`.


# %%
def critic(weight: Tensor, z: Tensor) -> Tensor:
    return torch.tanh(z @ weight).sum(1)


def critic_loss(weight: Tensor, z: Tensor, piloted: Tensor, share: Tensor) -> Tensor:
    ### BEGIN SOLUTION
    mixed = (share * z + (1 - share) * piloted).requires_grad_()
    (slope,) = torch.autograd.grad(critic(weight, mixed).sum(), mixed, create_graph=True)
    penalty = (slope.norm(dim=1) - 1).square().mean()
    return 10 * penalty - (critic(weight, z).mean() - critic(weight, piloted).mean())
    ### END SOLUTION


check("09.penalty", critic_loss)

# %% [markdown]
# Stuck? Take the `#` away.

# %%
# hint("09.penalty")

# %% [markdown]
# {{task 09.lie}}
#
# Now the message itself. The client takes what it is sent for $\partial L / \partial z$ and goes
# **down**. The server wants the mean of the critic's scores of $z$ to fall.
#
# `critic` is an `nn.Sequential`, `z` of shape $(B, C, H, W)$ comes from the wire. Return what is
# sent, of the shape of `z`.


# %%
def lie(critic: nn.Sequential, z: Tensor) -> Tensor:
    ### BEGIN SOLUTION
    heard = z.detach().requires_grad_()
    return torch.autograd.grad(critic(heard).mean(), heard)[0]
    ### END SOLUTION


check("09.lie", lie)

# %%
# hint("09.lie")

# %% [markdown]
# {{task 09.obey}}
#
# How far does one message move a client? Take one without bias, $Z = X W^\top$, where the rows of
# $X$ are the flattened images. It is sent $G$, does its backward pass and one step of gradient
# descent, $W \leftarrow W - \mathrm{lr} \cdot \partial L/\partial W$.
#
# * **Predict** $Z$ of the same images after the step: from $X$, $Z$, $G$ and lr, by a formula,
#   without the client's help.
# * **Measure** it: let the client take the step, and send the images through it again.
#
# `front` is `nn.Sequential(nn.Flatten(), nn.Linear(16, 6, bias=False))`, `images` $(B, 1, 4, 4)$,
# `sent` $(B, 6)$. Return both, each $(B, 6)$.


# %%
def predict_and_obey(
    front: nn.Sequential, images: Tensor, sent: Tensor, lr: float
) -> tuple[Tensor, Tensor]:
    ### BEGIN SOLUTION
    x, z = images.flatten(1), front(images)
    predicted = z.detach() - lr * (x @ x.T) @ sent
    z.backward(sent)
    with torch.no_grad():
        for weight in front.parameters():
            weight -= lr * weight.grad
        return predicted, front(images)
    ### END SOLUTION


check("09.obey", predict_and_obey)

# %%
# hint("09.obey")

# %% [markdown]
# {{task 09.gap}}
#
# Change sides. Two samples of one label pull an honest client the same way; a hijacker does not
# even look at the labels. Take the cosine between the gradients of any two **different** samples of
# a batch, and return
#
# $$\text{mean cosine of the pairs of one label} - \text{mean cosine of the pairs of two labels}.$$
#
# `gradients` is $\partial L/\partial z$ as received, $(B, C, H, W)$; `labels` is $(B,)$. Return one
# number.


# %%
def label_gap(gradients: Tensor, labels: Tensor) -> float:
    ### BEGIN SOLUTION
    rows = normalize(gradients.flatten(1))
    cosines = rows @ rows.T
    same = labels[:, None] == labels
    pairs = ~torch.eye(len(labels), dtype=torch.bool)
    return (cosines[same & pairs].mean() - cosines[~same].mean()).item()
    ### END SOLUTION


check("09.gap", label_gap)

# %%
# hint("09.gap")

# %% [markdown]
# {{task 09.fair_rates}}
#
# A vendor sells a detector with "no false alarms". An alarm is a score above a threshold, and this
# is the evaluation:
#
# ```python
# def fair_rates(chosen, honest, hijacked):
#     threshold = honest.max()
#     false_alarms = (honest > threshold).float().mean().item()
#     caught = (hijacked > threshold).float().mean().item()
#     return false_alarms, caught
# ```
#
# All three arguments are scores, one row for each client and one column for each batch:
#
# * `chosen`: clients of honest servers, there to choose the threshold on. It shall be the highest
#   score in it;
# * `honest`: other clients of honest servers, there to try it;
# * `hijacked`: clients of hijackers.
#
# Two choices flatter the detector. Mend both: return the share of the **clients** of `honest` with
# a false alarm, and the share of those of `hijacked` that were warned, in that order.


# %%
def fair_rates(chosen: Tensor, honest: Tensor, hijacked: Tensor) -> tuple[float, float]:
    ### BEGIN SOLUTION
    threshold = chosen.max()
    false_alarms = (honest.amax(1) > threshold).float().mean().item()
    caught = (hijacked.amax(1) > threshold).float().mean().item()
    return false_alarms, caught
    ### END SOLUTION


check("09.fair_rates", fair_rates)

# %%
# hint("09.fair_rates")

# %% [markdown]
# {{task 09.silence}}
#
# Your own detector has accused none of the honest servers you tried it on. How many of them must
# have stayed silent before you may say, with this `confidence`, that it accuses less than `rate` of
# all honest servers? (That is: if it accused that many, so long a silence would have a chance of at
# most $1 - \mathrm{confidence}$.) Both lie between 0 and 1. Return the least whole number.


# %%
def clients_needed(rate: float, confidence: float) -> int:
    ### BEGIN SOLUTION
    return math.ceil(math.log(1 - confidence) / math.log(1 - rate))
    ### END SOLUTION


check("09.silence", clients_needed)

# %%
# hint("09.silence")

# %% [markdown]
# {{task 09.challenge}}
#
# A careful hijacker sends four fifths of the honest gradient and one fifth of a lie, together of
# honest size. The client is still led, if more slowly, and the gap between labels hardly sees it.
#
# `labels` is $(64,)$ or a little less, `gradients` $(64, 8, 12, 12)$: one batch of digits, as the
# client received it. Return one number, higher if it looks more like a hijacker's. You meet
# batches of three honest and three hijacked clients, in a random order. Scored is how often a
# hijacked batch looks less suspicious than an honest one, beside the same figure of the gap
# between labels: down to 0.7 of it earns half of the points, down to 0.4 all of them.


# %%
def suspicion(labels: Tensor, gradients: Tensor) -> float:
    ### BEGIN SOLUTION
    return normalize(gradients.flatten(1)).mean(0).norm().item()
    ### END SOLUTION


# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
check("09.challenge", suspicion)

# %%
# hint("09.challenge")

# %% [markdown]
# ## Review
#
# Three questions, never graded. Open an option to see what it is worth: click on it, or reach it
# with the Tab key and press Enter.

# %%
quiz("09")

# %% [markdown]
# ## How far you are

# %%
progress("09")
