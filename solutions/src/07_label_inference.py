# %% [markdown]
# # Exercises 07: reading labels that are never sent
#
# For [lesson 07](../course/07_label_inference.ipynb). You take labels out of granted gradients, out
# of a whole batch and out of what really crosses the wire; you foretell when an attack fails, and
# repair a score. At the end a client answers with noise. About two and a half hours; each task
# stands alone, so skip what does not draw you.
#
# `check` tells at once whether an answer is right, and if not, why. `hint` gives one hint after
# another. Both can be called as often as you like: nothing is deducted, and nothing leaves your
# machine.

# %%
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn.functional import normalize

from sltools.exercises import check, hint, progress, quiz

# %% [markdown]
# Throughout, $K$ is the number of classes, $y$ a label, $p$ the client's probabilities for one
# sample, and $e_y$ the vector that is 1 at $y$ and 0 elsewhere.
#
# {{task 07.bias}}
#
# The last layer of the head computes the logits $a = Wu + b$. For **one** sample,
# $\partial L/\partial b = p - e_y$. The protocol never sends it; suppose that it was granted.
#
# `gradient` is $\partial L/\partial b$, of shape $(K,)$. Return the label, a whole number.


# %%
def label_from_bias(gradient: Tensor) -> int:
    ### BEGIN SOLUTION
    return int(gradient.argmin())
    ### END SOLUTION


check("07.bias", label_from_bias)

# %% [markdown]
# Stuck? Take the `#` away.

# %%
# hint("07.bias")

# %% [markdown]
# {{task 07.match}}
#
# The published attack makes a clone of the head, computes for each class $c$ the gradient that the
# clone's weights would have **if the label were $c$**, and guesses the class whose gradient comes
# closest to the client's. For a head of one layer the lesson says when that is right: if and only
# if, for every $c \ne y$,
#
# $$p_y - p_c \;<\; 1 + q_y - q_c ,$$
#
# where $q$ are the clone's probabilities at the same $u$. First predict, then measure:
#
# * `clone` is the clone's head, an `nn.Sequential` of one linear layer; `u` is $(1, D)$;
# * `target` is the client's $\partial L/\partial W$, of shape $(K, D)$;
# * `p`, of shape $(K,)$, are the client's probabilities and `y` the label, a whole number. No
#   attacker has these two. You have, to predict.
#
# Return two things: whether the attack will find the label, True or False, **from the condition**;
# and the $K$ mean squared distances between the clone's gradient under each label and `target`,
# made without `p` and `y`.


# %%
def predict_and_match(
    clone: nn.Sequential, u: Tensor, target: Tensor, p: Tensor, y: int
) -> tuple[bool, Tensor]:
    ### BEGIN SOLUTION
    q = clone(u).softmax(1)[0].detach()
    predicted = all(p[y] - p[c] < 1 + q[y] - q[c] for c in range(len(p)) if c != y)
    candidates = (q - torch.eye(len(q)))[:, :, None] * u  # (candidate, K, D)
    return predicted, (candidates - target).square().mean((1, 2))
    ### END SOLUTION


check("07.match", predict_and_match)

# %%
# hint("07.match")

# %% [markdown]
# {{task 07.closed_form}}
#
# Of a batch of $B$ samples the leak is $G = \tfrac1B (P - Y)^\top U$: the rows of $P$ are the
# probabilities, those of $Y$ the vectors $e_y$, those of $U$ the features. With the pseudo-inverse
# $U^+$,
#
# $$B\,(G\,U^+)^\top = P - Y \qquad\text{while } \mathrm{rank}(U) = B ,$$
#
# and the least entry of each row is at the label. Where the rank is less, other labels would give
# the same $G$, and an honest attack does not answer.
#
# `U` is $(B, D)$, `G` is $(K, D)$. Return $P - Y$, of shape $(B, K)$; or `None` if the rank is less
# than $B$.


# %%
def closed_form(U: Tensor, G: Tensor) -> Tensor | None:
    ### BEGIN SOLUTION
    if torch.linalg.matrix_rank(U) < len(U):
        return None
    return len(U) * (G @ torch.linalg.pinv(U)).T
    ### END SOLUTION


check("07.closed_form", closed_form)

# %%
# hint("07.closed_form")

# %% [markdown]
# {{task 07.counts}}
#
# Where samples cannot be told apart, one can still count. The gradient of the head's bias is the
# mean over the batch of $p_i - e_{y_i}$. So $B$ times its entry of class $c$ is the sum of the
# batch's probabilities of $c$, **less** the number of samples with label $c$.
#
# Nobody tells the attacker that sum. But it knows two things:
#
# * The sum is not negative. This gives for each class a number that its count cannot be below.
# * An untrained client doubts evenly, so the sum is *about* $B/K$. This gives an estimate.
#
# `gradient` is $(K,)$, `batch` the number of samples $B$. Return two tensors of $K$ whole numbers:
# the largest **bound** that is certain for each count, and the **counts** themselves, supposing
# that each sum is $B/K$ and rounding to the nearest whole number.


# %%
def count_labels(gradient: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    ### BEGIN SOLUTION
    excess = -batch * gradient
    return excess.ceil().clamp(min=0), (excess + batch / len(gradient)).round()
    ### END SOLUTION


check("07.counts", count_labels)

# %%
# hint("07.counts")

# %% [markdown]
# {{task 07.cluster}}
#
# Now nothing is granted but the anchors. The client returns $\partial L/\partial u$, a row for each
# sample, and the row is $\frac{1 - p_y}{B}\, W^\top (\pi - e_y)$: its length says how sure the
# client is, its direction says the label, while $\pi$, the division of the client's doubt, is
# nearly even. Put the **directions** into as many clusters as there are classes, and give each
# cluster the name of the anchor in it.
#
# `gradients` is $(N, D)$. `anchors` is $(N,)$: the label of one sample of each class, and −1 for
# all others. The classes are 0, 1, 2 and so on. Return the labels, $(N,)$.


# %%
def cluster_labels(gradients: Tensor, anchors: Tensor) -> Tensor:
    ### BEGIN SOLUTION
    given = anchors >= 0
    found = KMeans(int(given.sum()), n_init=10).fit(normalize(gradients, dim=1).numpy())
    clusters = torch.from_numpy(found.labels_).long()
    names = torch.full((int(given.sum()),), -1)
    names[clusters[given]] = anchors[given]
    return names[clusters]
    ### END SOLUTION


check("07.cluster", cluster_labels)

# %%
# hint("07.cluster")

# %% [markdown]
# {{task 07.score}}
#
# Somebody had clusters and anchors, six classes, and this score:
#
# ```python
# def score_names(clusters, anchors, truth):
#     names = torch.stack([truth[clusters == c].mode().values for c in range(6)])
#     labels = names[clusters]
#     found = (labels == truth).double().mean().item()
#     return found, 1 / 6  # the share of labels found, and a baseline
# ```
#
# Three choices flatter the attack: the names that the clusters get, the samples that are counted,
# and the baseline. Mend all three. In these data each cluster holds exactly one anchor, whose label
# is its name. Return two numbers: the share of labels found, among the samples whose labels were
# not given; and the share of the most frequent class among the same samples, which is what a blind
# attacker scores who always names that class.
#
# `clusters`, `anchors` (−1 where there is none) and `truth` are $(N,)$.


# %%
def score_names(clusters: Tensor, anchors: Tensor, truth: Tensor) -> tuple[float, float]:
    ### BEGIN SOLUTION
    given = anchors >= 0
    names = torch.empty(int(given.sum())).long()
    names[clusters[given]] = anchors[given]
    found = (names[clusters] == truth)[~given].double().mean().item()
    majority = truth[~given].bincount().max() / (~given).sum()
    return found, majority.item()
    ### END SOLUTION


check("07.score", score_names)

# %%
# hint("07.score")

# %% [markdown]
# {{task 07.challenge}}
#
# This client knows the lesson. To each $\partial L/\partial u$ it adds Gaussian noise, four times
# as large as the gradients of the batch (their root mean square). The library's attack on the wire
# then finds fewer labels than an attacker who looks at no gradient and names each sample like the
# anchor of nearest $z$. Is the client safe?
#
# `view` is the server's view of the first epoch: 640 digits in batches of 64, a head of one layer,
# and the anchors, granted: `view.smashed`, `view.features`, `view.feature_gradients`,
# `view.anchor_labels`. Return the labels, $(640,)$.
#
# You may use all of `sltools` and scikit-learn, or nothing of it. Scored is the share of labels
# found, anchors left out, the median of three clients. The two attacks just named are the
# baselines. At most nine tenths of the mistakes of the better one earn half of the points, at most
# a third all of them. Your attack is called a second time with the gradients of each batch dealt
# out to other samples (the anchors keep theirs): what it finds then does not come from the
# gradients, so this must be much less. Keep it below ten seconds.


# %%
def infer(view) -> Tensor:
    ### BEGIN SOLUTION
    z = view.smashed.flatten(1)
    z = normalize(z - z.mean(0), dim=1)
    alike = (z @ z.T).topk(15, dim=1)  # samples of one label, as a rule
    weights = alike.values.clamp(min=0).pow(4)
    means = (weights[..., None] * view.feature_gradients[alike.indices]).sum(1)
    rows = normalize(means, dim=1).numpy()

    found = KMeans(10, n_init=20, random_state=0).fit(rows)
    given = view.anchor_labels >= 0
    anchors = view.anchor_labels[given]
    _, clusters = linear_sum_assignment(found.transform(rows[given.numpy()]))
    names = torch.empty(10).long()
    names[clusters] = anchors
    return names[torch.from_numpy(found.labels_).long()]
    ### END SOLUTION


# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
check("07.challenge", infer)

# %%
# hint("07.challenge")

# %% [markdown]
# ## Review
#
# Three questions, never graded. Open an option to see what it is worth: click on it, or reach it
# with the Tab key and press Enter.

# %%
quiz("07")

# %% [markdown]
# ## How far you are

# %%
progress("07")
