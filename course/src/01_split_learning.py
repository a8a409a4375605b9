# ---
# jupyter:
#   sltools:
#     minutes: 45
#     alternative: {cut: conv1}
# ---

# %% [markdown]
# # Split learning, by hand and by library
#
# A clinic wants a network that reads its scanner's images, and a vendor has the machines to train
# one. Can they train it together without a patient's image leaving the clinic, and what leaves it
# instead?
#
# After this lesson you can cut a network in two, train the halves by passing messages, prove that
# nothing was lost, and say what goes over the wire and how much of it.
#
# **Objectives.** You can
#
# * cut a network and carry out one training step with three messages, by hand;
# * explain why a message must be detached, and show what an undetached tensor would hand over;
# * show that split training and ordinary training give the same weights, bit for bit;
# * draw the message flow of vanilla and of label-private split learning;
# * count the bytes on the wire, and say how they depend on the cut.
#
# **Prerequisites.** PyTorch: you have written a training loop and know what `backward` does. No
# security. [Lesson 00](00_start_here.ipynb) shows how to use these notebooks.
#
# **Time.** About 45 minutes (estimated).

# %% [markdown]
# ## Two parties who need each other
#
# **Split learning** lets the clinic and the vendor train one network together without handing over
# an image: the clinic computes the first layers, the vendor's server the others. (The digits below
# stand in for the clinic's images through the whole course.)
#
# Five words are used throughout the course:
#
# | word | meaning |
# |---|---|
# | **client** | the party that has the images; it holds the first layers |
# | **server** | the party that has the computing power; it holds the layers after them |
# | **cut layer** | the last layer of the client's first part: after it the network is cut |
# | **smashed data** $z$ | the activations at the cut, sent in place of the images |
# | **cut-layer gradient** $\partial L/\partial z$ | what comes back, so that the client can learn |
#
# In the plain form of the protocol, called **vanilla**, the client sends its labels as well.

# %%
from sltools import plots

plots.exchange(
    {"client": "images, labels, the first layers", "server": "the other layers"},
    [
        ("client", "client", "computes z from a batch of images"),
        ("client", "server", "the labels of the batch"),
        ("client", "server", "z, the smashed data"),
        ("server", "server", "computes the loss L, goes back to z, learns"),
        ("server", "client", "dL/dz, the cut-layer gradient"),
        ("client", "client", "goes back from z to its weights, learns"),
    ],
)

# %% [markdown]
# ## Settings
#
# Everything below follows these five values. Change them and run all cells again. (The
# label-private form at the end needs a layer with weights between the cut and the client's last
# layer, so do not choose one of the last stages as the cut.)

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist, fashion_mnist, cifar10
cut: str = "pool1"  # the stage after which the network is cut
budget: str = "quick"  # one of: tiny, quick, full
seed: int = 0  # changes victim, clone and data order together, each from a stream of its own
device: str = "cpu"  # one of: cpu, cuda

# %%
from itertools import groupby

import torch
from torch.nn.functional import cross_entropy

from sltools import data, metrics, models, protocol, seeds, widgets
from sltools.claims import Claims, compare

BATCH_SIZE = 64
as_shown = (dataset, cut, budget, seed, device) == ("digits", "pool1", "quick", 0, "cpu")
claim = Claims(as_shown)
count = {"tiny": 128, "quick": 1500, "full": 60_000}[budget]
epochs = {"tiny": 2, "quick": 1 if dataset == "cifar10" else 5, "full": 10}[budget]

source = data.load(dataset)
train, test = source.train[:count].to(device), source.test[:count].to(device)
print(f"training: {train}")
print(f"{epochs} epochs of {-(-len(train) // BATCH_SIZE)} batches of at most {BATCH_SIZE} images")

# %% [markdown]
# ## A network, stage by stage
#
# The network is the one of the *UnSplit* paper for images of this size, as a plain
# `nn.Sequential`. Its stages have names, and a cut is named by the stage it comes after. The table
# says how many numbers one image has become after each stage, and how many weights the client
# would hold.

# %%
net = models.for_images(train.images.shape, seed).to(device)
image = train.images[:1]
numbers = {}  # stage -> how many numbers one image is after it
weights = 0

print(f"{'stage':10}{'one image becomes':>20}{'numbers':>10}{'weights so far':>17}")
print(f"{'(input)':10}{str(tuple(image.shape[1:])):>20}{image.numel():10,}{0:17,}")
activations = image
for stage, layer in net.named_children():
    activations = layer(activations)
    numbers[stage] = activations.numel()
    weights += sum(weight.numel() for weight in layer.parameters())
    print(f"{stage:10}{str(tuple(activations.shape[1:])):>20}{numbers[stage]:10,}{weights:17,}")

# %% [markdown]
# ## One step by hand
#
# To cut the network is to slice it. The halves still are the same layers, so one after the other
# they compute what the whole network computes.

# %%
depth = models.stages(net).index(cut) + 1
front, back = net[:depth], net[depth:]  # the client's part, the server's part
net.zero_grad()  # this cell may have been run before

images, labels = train.images[:BATCH_SIZE], train.labels[:BATCH_SIZE]
print("client holds:", ", ".join(models.stages(front)))
print("server holds:", ", ".join(models.stages(back)))
print("the halves compute what the whole computes:", torch.equal(back(front(images)), net(images)))

# %% [markdown]
# **The client** computes the smashed data and sends them, with the labels. Look at the last line:
# it is the message. Why it is detached and copied is the subject of the next section.

# %%
z = front(images)
message = z.detach().clone()

print(f"client to server: smashed data {tuple(message.shape)} and {len(labels)} labels")

# %% [markdown]
# **The server** has received numbers. It asks PyTorch to keep a gradient for them, as for the
# input of a network, and goes on to the loss and back again. The gradient that ends up at its
# input is the answer to the client.

# %%
arrived = message.requires_grad_()
loss = cross_entropy(back(arrived), labels)
loss.backward()
answer = arrived.grad.detach().clone()

print(f"server to client: dL/dz {tuple(answer.shape)}")

# %% [markdown]
# **The client** goes back through its own layers, starting from the answer. This is the chain
# rule, cut where the network is cut. For a weight $w$ of the client,
#
# $$\frac{\partial L}{\partial w}
# \;=\; \sum_k \frac{\partial L}{\partial z_k}\,\frac{\partial z_k}{\partial w} .$$
#
# The first factor comes from the server. The second needs the images, and the client has them.
# Neither party needs more than the one tensor that the other sent.

# %%
z.backward(answer)

whole = models.for_images(train.images.shape, seed).to(device)  # the same network, not cut
cross_entropy(whole(images), labels).backward()
pairs = list(zip(net.named_parameters(), whole.parameters(), strict=True))
for (name, split_weight), weight in pairs:
    same = torch.equal(split_weight.grad, weight.grad)
    print(f"gradient of {name:12} the same as in the uncut network: {same}")
    assert same or device != "cpu"

# %% [markdown]
# **Try it.** Write the server's turn as a function: from the smashed data and labels of a batch to
# the loss and the reply, the cut-layer gradient. Nothing has to be learnt yet.


# %%
from sltools.exercises import check


def server_reply(back, smashed, labels):
    # Hint: let smashed require a gradient; after loss.backward() it has one. Return loss, gradient.
    raise NotImplementedError("your code here")


check("01.server", server_reply)

# %% [markdown]
# ## What an undetached tensor would hand over
#
# A tensor that PyTorch computed remembers how: its `grad_fn` leads to the operation, that one to
# the operation before it, and each operation keeps the tensors it will need on the way back. For a
# convolution these are its weights and **its input**. So whoever holds `z` itself, and not a
# detached copy, can walk the graph. Here is the walk.


# %%
def handed_over(tensor):
    """Collect the (operation, tensor) pairs that can be reached from a tensor's `grad_fn`."""
    found, seen, todo = [], set(), [tensor.grad_fn]
    while todo:
        operation = todo.pop()
        if operation is None or operation in seen:
            continue
        seen.add(operation)
        for name in dir(operation):
            if name == "variable" or name.startswith("_saved_"):
                kept = getattr(operation, name)
                if isinstance(kept, torch.Tensor):
                    found.append((operation.name().split("::")[-1], kept))
        todo.extend(before for before, _ in operation.next_functions)
    return found


z = front(images)
for operation, kept in handed_over(z):
    secret = ""
    if kept.shape == images.shape and torch.equal(kept, images):
        secret = "<- the private images"
    elif any(kept is weight for weight in front.parameters()):
        secret = "<- a weight of the client"
    print(f"{operation:32}{str(tuple(kept.shape)):20}{secret}")

print("\nreached from the detached message:", handed_over(z.detach().clone()))

# %% [markdown]
# No mathematics, no attack: the images were attached to the message. Below, the first row is what
# the client wanted to keep, the second is what was taken from the graph.

# %%
taken = next(kept for _, kept in handed_over(z) if kept.shape == images.shape)
plots.reconstructions(images[:10].cpu(), {"from the graph": taken[:10].cpu()})

# %% [markdown]
# Two machines are safe from this mistake, for bytes carry no graph. But an experiment, and this
# course is no exception, usually plays both parties in one process, and there the mistake is easy.
# (The published code of UnSplit makes it: its attack steps also run back into the victim's own
# weights. That costs time only, as nothing is done with those gradients.) An attack that is handed
# more than the wire carries may work for the wrong reason, and no number it prints would tell you.
#
# `detach()` cuts the graph off. It does not copy: both tensors share their memory, and a receiver
# that works in place would change the sender's activations. Hence `.clone()`.

# %%
print("detached tensor shares memory with z:", z.detach().data_ptr() == z.data_ptr())
print("after clone() it still does:", z.detach().clone().data_ptr() == z.data_ptr())

# %% [markdown]
# ## The whole training by hand
#
# The cells above, put into one function, are split learning. Each party has an optimiser of its
# own for its own layers. Beside it stands the ordinary training loop; both see the batches in the
# same order and start from the same weights. How many points of test accuracy will the split cost?

# %%
guess_cost = None  # your guess, in points


# %%
def ordinary_step(net, optimizer, images, labels):
    optimizer.zero_grad()
    loss = cross_entropy(net(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def split_step(front, back, client_optimizer, server_optimizer, images, labels):
    # client
    client_optimizer.zero_grad()
    z = front(images)
    message = z.detach().clone()  # ---- z and the labels go to the server ---->
    # server
    server_optimizer.zero_grad()
    arrived = message.requires_grad_()
    loss = cross_entropy(back(arrived), labels)
    loss.backward()
    server_optimizer.step()
    answer = arrived.grad.detach().clone()  # <---- dL/dz goes to the client ----
    # client
    z.backward(answer)
    client_optimizer.step()
    return loss.item()


def batches():
    """Yield all batches of an epoch, in an order that depends on the seed; again for each epoch."""
    order = seeds.generator(seed, "order")
    for _ in range(epochs):
        rows = torch.randperm(len(train), generator=order)
        yield [(train.images[part], train.labels[part]) for part in rows.split(BATCH_SIZE)]


# %%
def mean(values):
    return sum(values) / len(values)


ordinary = models.for_images(train.images.shape, seed).to(device)
optimizer = protocol.adam(ordinary.parameters())
ordinary_losses = [
    mean([ordinary_step(ordinary, optimizer, *batch) for batch in epoch]) for epoch in batches()
]

by_hand = models.for_images(train.images.shape, seed).to(device)
halves = by_hand[:depth], by_hand[depth:]
optimizers = [protocol.adam(half.parameters()) for half in halves]
by_hand_losses = [
    mean([split_step(*halves, *optimizers, *batch) for batch in epoch]) for epoch in batches()
]

# %% [markdown]
# "The same" can mean *about as accurate*, or *equal up to rounding*. On a CPU we can ask for more:
# every weight equal in every bit.


# %%
def same_weights(net, other):
    pairs = zip(net.parameters(), other.parameters(), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


fresh = models.for_images(train.images.shape, seed).to(device)
print("training changed the weights:", not same_weights(ordinary, fresh))
print("split by hand = ordinary, bit for bit:", same_weights(by_hand, ordinary))
assert same_weights(by_hand, ordinary) or device != "cpu"

# %% [markdown]
# ## The same with the library
#
# From here on the library does the bookkeeping. `models.cut` names the place, `protocol.train`
# carries the messages between the parties, and the session it returns can predict.

# %%
by_library = models.for_images(train.images.shape, seed)
client_part, server_part = models.cut(by_library, at=cut)
session = protocol.train(
    client_part, server_part, train, epochs=epochs, batch_size=BATCH_SIZE, seed=seed, device=device
)
print(session)
print("library = ordinary, bit for bit:", same_weights(by_library, ordinary))
assert same_weights(by_library, ordinary) or device != "cpu"

# %%
plots.lines(
    torch.arange(1, epochs + 1),
    {
        "uncut network": ordinary_losses,
        "split, by hand": by_hand_losses,
        "split, library": session.losses,
    },
    "epoch",
    "training loss",
)

# %% [markdown]
# Three lines on top of each other: splitting costs no accuracy, because it changes nothing but the
# place where things are computed. To classify an image later, the client sends its smashed data
# and the server replies with the prediction.

# %%
chance = test.labels.bincount().max().item() / len(test)
accuracy = session.accuracy(test)
assert accuracy == metrics.accuracy(ordinary, test) or device != "cpu"
print("as accurate as the uncut network:", accuracy == metrics.accuracy(ordinary, test))
claim("accuracy on test images", accuracy, ">", 0.8)
claim("that of always naming the most frequent class", chance, "<", accuracy)
cost = 100 * (metrics.accuracy(ordinary, test) - accuracy)
compare(guess_cost, cost, "points of accuracy that the split costs")

# %% [markdown]
# ## The transcript
#
# With `record=True` a session keeps every message, in order: the **transcript**. It is what an
# eavesdropper on the wire could write down, and the raw material of every attack in this course.
# For a short recording we train a fresh network on a few batches.

# %%
few = train[: 2 * BATCH_SIZE]
parts = models.cut(models.for_images(train.images.shape, seed), at=cut)
recorded = protocol.train(
    *parts, few, epochs=1, batch_size=BATCH_SIZE, seed=seed, device=device, record=True
)
transcript = recorded.transcript
print(transcript)
for line in transcript.messages[:3]:
    print(line)
print("...")

# %% [markdown]
# Each message is a detached copy that owns its memory; the library's `Message` sees to it. So the
# walk of before finds nothing:

# %%
for line in transcript.messages[:3]:
    print(f"{line.kind:14} grad_fn: {line.payload.grad_fn}, reached: {handed_over(line.payload)}")

# %% [markdown]
# ## Bytes on the wire
#
# Let $|z|$ be the number of activations of one image at the cut. A number takes 4 bytes (float32),
# a label 8 (int64). The smashed data go up and a gradient of the same size comes down, so a batch
# of $B$ images costs
#
# $$\text{bytes per batch} = B\,(2\cdot 4\,|z| + 8),$$
#
# and an epoch over $N$ images costs the same with $N$ for $B$, in **every** epoch. Counting the
# transcript agrees with the formula. (Only payload is counted: no headers, no encryption.)


# %%
def batch_bytes(stage, batch_size):
    return {
        "labels": 8 * batch_size,
        "smashed": 4 * numbers[stage] * batch_size,
        "cut_gradient": 4 * numbers[stage] * batch_size,
    }


first = [message for message in transcript.messages if message.step == 0]
for line in first:
    expected = batch_bytes(cut, BATCH_SIZE)[line.kind]
    print(f"{line.kind:14}{line.nbytes:10,} bytes, by the formula {expected:10,}")
    assert line.nbytes == expected
per_batch = sum(batch_bytes(cut, BATCH_SIZE).values())
print(f"{'one batch':14}{per_batch:10,} bytes")
assert transcript.nbytes() == sum(batch_bytes(cut, len(few)).values())

# %% [markdown]
# Is that much? Two things to compare with:
#
# * **Sending the images themselves**, once, before the training. Private it is not, but it is the
#   cheapest way to train elsewhere. A pixel takes one byte in most image files, and 4 as float32.
# * **Federated learning**, the best known other way to train without handing over data. The client
#   trains the whole network itself; in each round it receives all weights and sends back its own.
#   A round often is one epoch. That costs $2\cdot 4\,|W|$ bytes for $|W|$ weights, however many
#   images there are.
#
# How many times the bytes of the images, at one byte a pixel, does an epoch of split learning send?

# %%
guess_ratio = None  # your guess: below 1 is less than the images

# %%
total = sum(weight.numel() for weight in net.parameters())
pixels = image.numel()
epoch_bytes = sum(batch_bytes(cut, len(train)).values())
choices = {
    "images, once, 1 byte a pixel": pixels * len(train),
    "images, once, float32": 4 * pixels * len(train),
    "split learning, one epoch": epoch_bytes,
    "federated learning, one round": 2 * 4 * total,
}
plots.bars({name: size / 1e6 for name, size in choices.items()}, "million bytes")

# %%
for name, size in choices.items():
    print(f"{name:32}{size / 1e6:10.2f} million bytes")
ratio = epoch_bytes / (pixels * len(train))
break_even = 2 * 4 * total / (2 * 4 * numbers[cut] + 8)
print(f"\nCut after {cut}, an epoch of split learning sends {ratio:.1f} times the bytes of")
print("the images at one byte a pixel, and every further epoch sends as much again.")
print(
    f"A federated round costs as much as an epoch over {break_even:.0f} images. A client with more"
)
print("of them sends less in federated learning, a client with fewer in split learning.")
compare(guess_ratio, ratio, "bytes of an epoch, as a multiple of the images'")

# %% [markdown]
# Read the last sentence twice. Split learning saves traffic where the network is large and the
# client's images are few; for a small network and many images it costs traffic. What it always
# saves is the client's *computing* and *memory*: the client runs a few layers and never holds the
# rest.

# %% [markdown]
# ## How it depends on the cut
#
# The table above had the numbers at each stage. Here they are beside those of an image; stages
# that leave the number as it is share a bar. A cut whose bar is higher than the first one sends
# **more** numbers than the image has.

# %%
*cuts, _ = models.stages(net)  # after the last stage there is nothing left for a server
heights = {"image": pixels}
for size, same in groupby(cuts, key=numbers.get):
    heights[", ".join(same)] = size
plots.bars(heights, "numbers per image")

# %%
larger = [stage for stage in cuts if numbers[stage] > pixels]
print(f"an image has {pixels:,} numbers; more are sent when cutting after: {', '.join(larger)}")
print(f"cutting after {cut}: {numbers[cut]:,} numbers, {numbers[cut] / pixels:.2f} times the image")

# %% [markdown]
# Convolutions widen before pooling narrows. Cut early and the client has little to compute, but
# sends the most, and (as [lesson 03](03_smashed_data.ipynb) shows) what it sends looks like the
# image. Cut late and it sends little, but computes nearly everything itself. Try it: choose a cut
# and a batch size.


# %%
def draw(stage, batch_size):
    sent = batch_bytes(stage, batch_size)
    return plots.bars(
        {
            "labels": sent["labels"] / 1e3,
            "z, to the server": sent["smashed"] / 1e3,
            "dL/dz, to the client": sent["cut_gradient"] / 1e3,
            "the images, 1 byte a pixel": pixels * batch_size / 1e3,
            "a federated round": 8 * total / 1e3,
        },
        f"thousand bytes per batch of {batch_size}, cut after {stage}",
    )


start = {"stage": cut, "batch_size": BATCH_SIZE}
widgets.show(draw, start, stage=cuts, batch_size=[1, 16, 64, 256])

# %% [markdown]
# Without the widget: the two bars of $z$ and $\partial L/\partial z$ are always equal, and grow
# with the batch as the images do, so their ratio to the images depends on the cut alone. The
# federated bar never moves.

# %% [markdown]
# ## Keeping the labels at home: the U-shape
#
# In vanilla split learning the server is told every label: for a clinic, every diagnosis. The
# **label-private** form cuts twice. The client also keeps the last layers, its **head**; drawn
# with the client on one side, the data path makes a U. Let $u$ be the features that the server
# makes of $z$. Now there are four messages to a batch, and no label among them. By how many percent
# does the traffic grow?

# %%
guess_traffic = None  # your guess, in percent

# %%
plots.exchange(
    {"client": "images, labels, the first layers and the head", "server": "the layers between"},
    [
        ("client", "server", "z, the smashed data"),
        ("server", "client", "u, the features"),
        ("client", "client", "the head: loss L, back to u, learns"),
        ("client", "server", "dL/du, the feature gradient"),
        ("server", "server", "goes back from u to z, learns"),
        ("server", "client", "dL/dz, the cut-layer gradient"),
        ("client", "client", "goes back from z, learns"),
    ],
)

# %% [markdown]
# In code there are two cuts and a client with two parts. The head begins after the last stage but
# one, so it is a single linear layer. It is the same network again, so the weights must again be
# those of ordinary training.

# %%
u_net = models.for_images(train.images.shape, seed)
head_cut = models.stages(u_net)[-2]
first_layers, middle, head = models.cut(u_net, at=(cut, head_cut))
u_session = protocol.train(
    protocol.Client(first_layers, head),
    protocol.Server(middle, label_private=True),
    train,
    epochs=epochs,
    batch_size=BATCH_SIZE,
    seed=seed,
    device=device,
)
print("the client's head:", head)
print("label-private = ordinary, bit for bit:", same_weights(u_net, ordinary))
assert same_weights(u_net, ordinary) or device != "cpu"

# %%
u_fresh = models.for_images(train.images.shape, seed)
first_layers, middle, head = models.cut(u_fresh, at=(cut, head_cut))
u_recorded = protocol.train(
    protocol.Client(first_layers, head),
    protocol.Server(middle, label_private=True),
    few,
    epochs=1,
    batch_size=BATCH_SIZE,
    seed=seed,
    device=device,
    record=True,
)
for line in u_recorded.transcript.messages[:4]:
    print(line)
vanilla, private = transcript.nbytes(), u_recorded.transcript.nbytes()
print(f"\nlabels sent: {u_recorded.transcript.nbytes('labels')} bytes")
print(f"vanilla {vanilla:,} bytes, label-private {private:,}: {private / vanilla - 1:+.1%}")
compare(guess_traffic, 100 * (private / vanilla - 1), "percent more traffic")

# %% [markdown]
# **Try it.** One function for the bytes of a whole training in both forms: `z_numbers` is $|z|$ and
# `u_numbers` is $|u|$, or `None` in vanilla split learning.


# %%
def wire_bytes(z_numbers, images, epochs, u_numbers):
    # Hint: 4 bytes a number, up and down; 8 bytes for each label that is sent.
    raise NotImplementedError("your code here")


check("01.bytes", wire_bytes)

# %% [markdown]
# The label-private form costs a second trip per batch ($u$ and back), and the client has to wait
# twice. Whether the labels are really safe is another matter: $\partial L/\partial u$ was computed
# from them. [Lesson 07](07_label_inference.ipynb) reads them back.

# %% [markdown]
# **The clinic** can answer: the network is the same as if nothing had been cut, and no image is
# sent, but numbers made of the images are, and every label unless it keeps the last layer, too.
# What these numbers tell the vendor about a patient is the question of all lessons to come.
#
# ## Limitations
#
# * **Equal weights say nothing about privacy.** We showed that split learning computes the right
#   thing. Nothing here showed that $z$ hides the image. At some cuts $z$ has more numbers than the
#   image: there is room in it for everything.
# * **Bit for bit holds on a CPU**, with one library and one number of threads. On a GPU some
#   kernels add up in an order that changes from run to run, and weights agree up to rounding only.
#   So there the cells above print the comparison but do not insist.
# * **One client.** With several, each takes its turn with the same server, and the first layers are
#   passed on from client to client or trained apart. That traffic is not counted here, and neither
#   is it in the figure for federated learning, which is for one client.
# * **Bytes are payload**, float32 and int64. A real system would send a label in one byte and might
#   send $z$ in half precision. Waiting time, often worse than bytes, is not counted: split learning
#   needs a round trip for every batch, federated learning one for every round.
#
# ## Try it
#
# * Set `cut = "conv1"` and `cut = "pool2"`. Which of the printed sentences change, which cannot?
# * In `split_step`, let the server work on `z` itself: `arrived = z`, then `z.retain_grad()`. What
#   does the client's `z.backward` complain about? Who has computed the client's gradients, and with
#   whose data?
# * Give the server another optimiser than the client. With which loop do you compare now?
#
# ## Review questions
#
# **1.** The server never sees a client weight. How can the client's weights get the right gradient?
#
# <details><summary>Answer</summary>
#
# By the chain rule. The gradient of a client weight is the gradient at the cut, which the server
# computes and sends, times the derivative of $z$ with respect to the weight, which the client can
# compute alone. The server needs $z$, not how it came about.
#
# </details>
#
# **2.** A colleague's attack recovers private images with an error of exactly zero. What do you
# check first?
#
# <details><summary>Answer</summary>
#
# Whether the attack was given a tensor with a `grad_fn`, or anything else that the wire does not
# carry. From an undetached $z$ one can walk to the images themselves. An exact zero is a sign of
# something handed over rather than worked out.
#
# </details>
#
# **3.** Why do the bytes of an epoch not depend on the batch size? What does?
#
# <details><summary>Answer</summary>
#
# Every image sends its $z$ and its label and gets its $\partial L/\partial z$ once per epoch,
# however the images are grouped. The batch size sets how many round trips there are, and so how
# often both parties wait.
#
# </details>
#
# ## Further reading
#
# * O. Gupta, R. Raskar: *Distributed learning of deep neural network over multiple agents*, Journal
#   of Network and Computer Applications 116, 2018.
#   [arXiv 1810.06060](https://arxiv.org/abs/1810.06060). Where split learning begins.
# * P. Vepakomma, O. Gupta, T. Swedish, R. Raskar: *Split learning for health: Distributed deep
#   learning without sharing raw patient data*, 2018. [arXiv
#   1812.00564](https://arxiv.org/abs/1812.00564). Describes both forms used here.
# * E. Erdoğan, A. Küpçü, A. E. Çiçek: *UnSplit: Data-Oblivious Model Inversion, Model Stealing, and
#   Label Inference Attacks Against Split Learning*, WPES 2022.
#   [arXiv 2108.09033](https://arxiv.org/abs/2108.09033). The networks, and the attacks to come.
#
# **Next:** [lesson 02](02_threat_model.ipynb), on who sees what, and what an attacker may know.
