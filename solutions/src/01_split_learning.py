# %% [markdown]
# # Exercises 01: split learning, by hand
#
# For [lesson 01](../course/01_split_learning.ipynb). You write both parties' part of a training
# step, keep the labels at home, count bytes, mend a training that only looks right, and make the
# messages eight times smaller. About two hours; each task stands alone, so skip what does not draw
# you.
#
# `check` tells at once whether an answer is right, and if not, why. `hint` gives one hint after
# another. Both can be called as often as you like: nothing is deducted, and nothing leaves your
# machine.

# %%
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sltools.exercises import check, hint, progress, quiz

# %% [markdown]
# {{task 01.server}}
#
# A batch of smashed data and its labels have arrived, in vanilla split learning. `back` is the
# server's part of the network. Compute the loss, the mean cross-entropy over the batch, and the
# reply to the client: the cut-layer gradient $\partial L / \partial z$.
#
# `smashed` is $(B, \dots)$, `labels` $(B,)$. Return the loss, a tensor of shape (), and the
# gradient, of the shape of `smashed`. Nothing has to be learnt yet.


# %%
def server_reply(back: nn.Module, smashed: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    ### BEGIN SOLUTION
    arrived = smashed.detach().clone().requires_grad_()
    loss = cross_entropy(back(arrived), labels)
    loss.backward()
    return loss, arrived.grad
    ### END SOLUTION


check("01.server", server_reply)

# %% [markdown]
# Stuck? Take the `#` away.

# %%
# hint("01.server")

# %% [markdown]
# {{task 01.client}}
#
# The server's reply $\partial L / \partial z$ has come back. Compute the gradient of the loss for
# each weight of the client's part,
#
# $$\frac{\partial L}{\partial w} = \sum_k \frac{\partial L}{\partial z_k}
# \,\frac{\partial z_k}{\partial w} .$$
#
# `reply` has the shape of $z$. Return a list of gradients in the order of `front.parameters()`.


# %%
def client_gradients(front: nn.Module, images: Tensor, reply: Tensor) -> list[Tensor]:
    ### BEGIN SOLUTION
    z = front(images)
    z.backward(reply)
    return [weight.grad for weight in front.parameters()]
    ### END SOLUTION


check("01.client", client_gradients)

# %%
# hint("01.client")

# %% [markdown]
# {{task 01.u_step}}
#
# In label-private split learning the client holds `front` and `head`, the server `middle`. Play one
# step and return the four messages, in a dictionary:
#
# | key | from | what |
# |---|---|---|
# | `"smashed"` | client | $z$ |
# | `"features"` | server | $u$, what `middle` makes of $z$ |
# | `"feature_gradient"` | client | $\partial L / \partial u$ |
# | `"cut_gradient"` | server | $\partial L / \partial z$ |
#
# $L$ is the mean cross-entropy of the head's logits. Write it as two parties would: each works with
# what it holds and what has arrived. (The check sees the messages only.)


# %%
def u_messages(
    front: nn.Module, middle: nn.Module, head: nn.Module, images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    ### BEGIN SOLUTION
    z = front(images)  # client
    smashed = z.detach().clone()  # ---- goes to the server ---->
    arrived = smashed.requires_grad_()
    u = middle(arrived)
    features = u.detach().clone()  # <---- goes to the client ----
    received = features.requires_grad_()
    cross_entropy(head(received), labels).backward()
    feature_gradient = received.grad.clone()  # ---- goes to the server ---->
    u.backward(feature_gradient)
    return {
        "smashed": smashed,
        "features": features,
        "feature_gradient": feature_gradient,
        "cut_gradient": arrived.grad,  # <---- goes to the client ----
    }
    ### END SOLUTION


check("01.u_step", u_messages)

# %%
# hint("01.u_step")

# %% [markdown]
# {{task 01.bytes}}
#
# How many bytes cross the wire in a whole training? A number takes 4 bytes (float32), a label 8
# (int64).
#
# `z_numbers` is $|z|$ for one image, `images` the number of images, `epochs` that of the epochs.
# `u_numbers` is $|u|$ in the U-shaped form, and `None` in the vanilla form. Return the sum over
# both directions.


# %%
def wire_bytes(z_numbers: int, images: int, epochs: int, u_numbers: int | None) -> int:
    ### BEGIN SOLUTION
    per_image = 2 * 4 * z_numbers
    per_image += 8 if u_numbers is None else 2 * 4 * u_numbers
    return epochs * images * per_image
    ### END SOLUTION


check("01.bytes", wire_bytes)

# %%
# hint("01.bytes")

# %% [markdown]
# {{task 01.cheaper}}
#
# A client with some number of images may train a network in two ways: by vanilla split learning,
# cut after the first `depth` layers, or by **federated learning**, where it trains the whole
# network itself, and in each round receives all weights and sends all back. Predict for the network
# `net`, without training it, the bytes of one epoch of the one and one round of the other. The
# check trains the network for an epoch and counts the transcript.
#
# `shape` is that of one image, $(C, H, W)$. Return a dictionary with the bytes, `"split"` and
# `"federated"`, and with `"cheaper"`, the name of the cheaper one. You are called with few images
# and with many.


# %%
def predict_bytes(net: nn.Sequential, depth: int, shape: tuple, images: int) -> dict:
    ### BEGIN SOLUTION
    with torch.no_grad():
        numbers = net[:depth](torch.zeros(1, *shape)).numel()
    weights = sum(weight.numel() for weight in net.parameters())
    split, federated = images * (2 * 4 * numbers + 8), 2 * 4 * weights
    cheaper = "split" if split < federated else "federated"
    return {"split": split, "federated": federated, "cheaper": cheaper}
    ### END SOLUTION


check("01.cheaper", predict_bytes)

# %%
# hint("01.cheaper")

# %% [markdown]
# {{task 01.train}}
#
# A colleague wrote one epoch of split training with plain gradient descent. The loss goes down, and
# yet the weights are not those of joint training:
#
# ```python
# def train_split(front, back, images, labels, batch_size, lr):
#     for x, y in zip(images.split(batch_size), labels.split(batch_size)):
#         z = front(x)
#         arrived = z.detach().clone().requires_grad_()
#         # server
#         loss = cross_entropy(back(arrived), y, reduction="sum") / batch_size
#         for weight, push in zip(back.parameters(), grad(loss, list(back.parameters()))):
#             weight.data -= lr * push
#         loss = cross_entropy(back(arrived), y, reduction="sum") / batch_size
#         reply = grad(loss, arrived)[0]
#         # client
#         z.backward(reply)
#         for weight in front.parameters():
#             weight.data -= lr * weight.grad
#     return [*front.parameters(), *back.parameters()]
# ```
#
# (`grad` is `torch.autograd.grad`.) Find the three flaws, and write a training that equals that of
# the uncut network with the mean loss of each batch, taken in the order given. Return all weights,
# those of `front` first. The last batch may be smaller than the others.


# %%
def train_split(
    front: nn.Module,
    back: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    lr: float,
) -> list[Tensor]:
    ### BEGIN SOLUTION
    optimizers = [torch.optim.SGD(part.parameters(), lr=lr) for part in (front, back)]
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        for optimizer in optimizers:
            optimizer.zero_grad()  # both parties: gradients would pile up
        z = front(x)
        arrived = z.detach().clone().requires_grad_()
        loss = cross_entropy(back(arrived), y)  # the mean over this batch, however small
        loss.backward()
        z.backward(arrived.grad)  # computed with the weights before the step
        for optimizer in optimizers:
            optimizer.step()
    return [*front.parameters(), *back.parameters()]
    ### END SOLUTION


check("01.train", train_split)

# %%
# hint("01.train")

# %% [markdown]
# {{task 01.challenge}}
#
# A trained network is cut at pool1, and images are to be classified: the client sends $z$, which is
# $(N, 8, 12, 12)$ and not negative, in float32. Make the message smaller. Write one function for
# both ends of the wire:
#
# * `codec(True, z)` is called at the client and returns what is sent: a **list of tensors** of any
#   kind (`torch.uint8` takes 1 byte a number, `torch.half` 2, `torch.int64` 8);
# * `codec(False, content)` is called at the server, with a copy of that list, and returns a tensor
#   of the shape of $z$ for the server's layers.
#
# All bytes of all tensors are counted. The accuracy may fall by two points at most. Fewer bytes
# than half precision earn half of the points, an eighth of the float32 message (13% or less) all of
# them. A third message is delivered with its numbers shuffled: then the server must not know the
# digits any more, for nothing but the message may carry the images.


# %%
def codec(sending: bool, content):
    ### BEGIN SOLUTION
    if sending:
        top = content.max()
        codes = (content / top * 15).round().to(torch.uint8)  # 4 bits: 0 to 15
        return [codes[..., ::2] * 16 + codes[..., 1::2], top]
    packed, top = content
    codes = torch.stack([packed // 16, packed % 16], dim=-1).flatten(-2)
    return codes / 15 * top
    ### END SOLUTION


check("01.challenge", codec)

# %%
# hint("01.challenge")

# %% [markdown]
# ## Review
#
# Three questions, never graded. Open an option to see what it is worth: click on it, or reach it
# with the Tab key and press Enter.

# %%
quiz("01")

# %% [markdown]
# ## How far you are

# %%
progress("01")
