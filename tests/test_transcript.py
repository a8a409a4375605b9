import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sltools import models
from sltools.errors import NotObservable, ProtocolError, SltoolsError
from sltools.messages import SENDERS, Message, pack, unpack
from sltools.models import Architecture
from sltools.transcript import Transcript
from sltools.view import View
from tests.parties import U_CUT, holds, noise_split, run, same, weights

few = settings(deadline=None, max_examples=60)
COPY_SCRIPT = """
import json, sys
from sltools.transcript import Transcript
from sltools.view import View
transcript = Transcript.open(sys.argv[1])
parties = "server", "client"
digests = {party: transcript.digests(party) for party in parties}
logits = View.open(sys.argv[1]).model(transcript.messages[0].payload).tolist()
print(json.dumps([digests, len(transcript.client_log), logits]))
"""


@pytest.fixture(scope="module")
def vanilla():
    return run("pool1").transcript


@pytest.fixture(scope="module")
def private():
    return run(U_CUT, epochs=2).transcript


@pytest.fixture
def saved(private, tmp_path):
    return private.save(tmp_path / "run")


# --- Messages ---------------------------------------------------------------------------------


def test_a_message_owns_its_payload():
    source = torch.rand(4, 3)
    message = Message(0, 0, "smashed", source)
    copy = message.copy()
    kept = source.clone()
    source.zero_()
    assert torch.equal(message.payload, kept)
    message.payload.zero_()
    assert torch.equal(copy.payload, kept)
    assert (copy.step, copy.batch, copy.kind, copy.phase) == (0, 0, "smashed", "training")


def test_a_message_carries_no_graph_and_no_neighbours():
    images = torch.rand(50, 3)
    layer = torch.nn.Linear(3, 2)
    for payload in (layer(images), layer.weight, images[7:9], images.T, images[:1].expand(9, 3)):
        message = Message(0, 0, "smashed", payload)
        assert message.payload.grad_fn is None
        assert not message.payload.requires_grad
        assert type(message.payload) is torch.Tensor
        assert message.payload.is_contiguous()
        assert message.payload.untyped_storage().nbytes() == message.nbytes
        assert torch.equal(message.payload, payload)


def test_the_kind_says_who_sends():
    kinds = {"labels", "smashed", "feature_gradient"}
    for kind in SENDERS:
        message = Message(0, 0, kind, torch.zeros(1))
        expected = ("client", "server") if kind in kinds else ("server", "client")
        assert (message.sender, message.receiver) == expected


def test_unknown_kinds_and_phases_are_refused():
    with pytest.raises(ProtocolError, match="no message is called 'images'; there are .*smashed"):
        Message(0, 0, "images", torch.zeros(1))
    with pytest.raises(ProtocolError, match="a phase is one of .*, not 'warm-up'"):
        Message(0, 0, "smashed", torch.zeros(1), "warm-up")


@pytest.mark.parametrize(
    ("payload", "size"),
    [
        (torch.zeros(4, 8, 12, 12), 4 * 8 * 12 * 12 * 4),
        (torch.zeros(5, dtype=torch.int64), 40),
        (torch.zeros(5, 2, dtype=torch.float16), 20),
        (torch.zeros(0, 3), 0),
        (torch.tensor(1.5), 4),
    ],
)
def test_a_message_knows_its_size(payload, size):
    assert Message(0, 0, "smashed", payload).nbytes == size


def test_a_digest_tells_everything_apart():
    payload = torch.arange(6.0)
    different = [
        Message(0, 0, "smashed", payload),
        Message(1, 0, "smashed", payload),
        Message(0, 1, "smashed", payload),
        Message(0, 0, "features", payload),
        Message(0, 0, "smashed", payload, "inference"),
        Message(0, 0, "smashed", payload.reshape(2, 3)),
        Message(0, 0, "smashed", payload.view(torch.int32)),
        Message(0, 0, "smashed", payload.bfloat16()),
        Message(0, 0, "smashed", payload[0]),
        Message(0, 0, "smashed", payload[:0]),
        Message(0, 0, "smashed", payload + torch.tensor([0, 0, 0, 0, 0, 1e-6])),
        Message(0, 0, "smashed", torch.tensor([-0.0, 1, 2, 3, 4, 5])),
    ]
    digests = [message.digest() for message in different]
    assert len(set(digests)) == len(different)
    assert [message.copy().digest() for message in different] == digests


def test_messages_are_packed_and_unpacked():
    messages = [Message(2, 1, "labels", torch.arange(3)), Message(3, 0, "smashed", torch.rand(2))]
    tensors, facts = pack(messages)
    again = unpack(tensors, json.loads(json.dumps(facts)))
    assert [message.digest() for message in again] == [message.digest() for message in messages]


# --- What is recorded -------------------------------------------------------------------------


def test_the_transcript_adds_up_its_bytes(vanilla):
    # 11 images in batches of 4, 4 and 3: z is 8 x 12 x 12 floats, a label is one int64.
    assert vanilla.nbytes("smashed") == vanilla.nbytes("cut_gradient") == 11 * 8 * 12 * 12 * 4
    assert vanilla.nbytes("labels") == 11 * 8
    assert vanilla.nbytes("features") == 0
    assert vanilla.nbytes() == 2 * 11 * 8 * 12 * 12 * 4 + 11 * 8
    assert repr(vanilla) == f"Transcript(9 messages, {vanilla.nbytes():,} bytes)"


def test_a_label_private_transcript_adds_up_too(private):
    sizes = {kind: private.nbytes(kind) for kind in SENDERS}
    smashed, features = 22 * 8 * 12 * 12 * 4, 22 * 84 * 4
    assert sizes == {
        "labels": 0,
        "smashed": smashed,
        "features": features,
        "feature_gradient": features,
        "cut_gradient": smashed,
        "prediction": 0,
    }


def test_the_record_cannot_be_rewritten_by_a_party():
    transcript = Transcript()
    message = Message(0, 0, "smashed", torch.ones(3))
    transcript.append(message)
    message.payload.zero_()
    view = transcript.view("server")
    view.payloads("smashed")[0].zero_()
    view._messages[0].payload.zero_()
    assert torch.equal(transcript.messages[0].payload, torch.ones(3))


def test_digests_are_those_of_the_receiver(vanilla):
    to_server = [message for message in vanilla.messages if message.kind != "cut_gradient"]
    assert vanilla.digests("server") == [message.digest() for message in to_server]
    assert len(vanilla.digests("client")) == 3


# --- Saving and opening -----------------------------------------------------------------------


def test_another_process_opens_an_equal_transcript(saved, private):
    command = [sys.executable, "-c", COPY_SCRIPT, str(saved)]
    here = {**os.environ, "PYTHONPATH": str(Path(models.__file__).parents[1])}
    done = subprocess.run(command, env=here, capture_output=True, text=True, check=True)
    digests, pages, logits = json.loads(done.stdout)
    assert digests == {party: private.digests(party) for party in ("server", "client")}
    assert min(map(len, digests.values())) == 12
    assert pages == 0
    model = private.view("server").model
    assert torch.equal(torch.tensor(logits), model(private.messages[0].payload))


def test_an_opened_transcript_is_the_saved_one(saved, private):
    again = Transcript.open(saved)
    assert (again.client, again.head) == (private.client, private.head)
    assert same(weights(again.models["server"]), weights(private.models["server"]))
    assert set(again.models) == {"server"}
    assert [m.digest() for m in again.messages] == [m.digest() for m in private.messages]


def test_what_the_client_kept_is_never_written(private, saved):
    written = torch.frombuffer(
        bytearray(b"".join(path.read_bytes() for path in saved.iterdir())), dtype=torch.uint8
    )
    assert holds(written, private.messages[0].payload)  # the search finds what is there
    assert set(private.client_log) == set(range(6))
    for page in private.client_log.values():
        assert set(page) == {"labels", "head_weight_gradients", "head_bias_gradients"}
        assert not any(holds(written, tensor) for tensor in page.values())
    assert not any(holds(written, weight) for weight in weights(private.models["client"]))
    assert not any(holds(written, image) for image in noise_split().images)
    with pytest.raises(NotObservable, match="not on record"):
        Transcript.open(saved).view("server", ["anchor_labels"])


def test_a_clients_model_is_never_opened_as_the_servers(private, tmp_path):
    folder = private.view("client").save(tmp_path / "client")
    transcript = Transcript.open(folder)
    assert set(transcript.models) == {"client"}
    with pytest.raises(NotObservable):
        _ = transcript.view("server").model


def test_a_client_of_unusual_layers_is_saved_without_an_architecture(tmp_path):
    class Doubling(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    net = models.mnist_net()
    net.relu1 = Doubling()
    transcript = run("pool1", net=net).transcript
    again = Transcript.open(transcript.save(tmp_path / "unusual"))
    assert str(again.client).startswith("the layer Doubling is not from torch.nn")
    assert again.digests("server") == transcript.digests("server")


def test_saving_overwrites_nothing(private, saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(SltoolsError, match="is not empty; name a new folder"):
        private.save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_missing_folder_is_named(saved):
    with pytest.raises(SltoolsError, match=r"nowhere.* does not exist; was it saved here\?"):
        Transcript.open(saved / "nowhere")
    (saved / "facts.json").unlink()
    with pytest.raises(SltoolsError, match=r"holds no facts\.json"):
        Transcript.open(saved)


def test_opening_unpickles_nothing(saved, monkeypatch):
    def refuse(*anything, **options):
        raise AssertionError("unpickled")

    for module, name in [(pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")]:
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert len(Transcript.open(saved).messages) == 24


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    """A saved view of a tiny label-private client, with grants, to damage in all ways."""
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 3),
        torch.nn.Linear(3, 2),
    )
    split = noise_split(3, (1, 4, 4), classes=2)
    transcript = run(("1", "2"), net=net, split=split).transcript
    grants = ["client_model", "head_weight_gradients", "head_bias_gradients", "anchor_labels"]
    folder = tmp_path_factory.mktemp("small") / "view"
    return transcript.view("server", grants).save(folder)


def opens_or_says_why(folder):
    try:
        View.open(folder)
        Transcript.open(folder)
    except SltoolsError:
        return


@few
@given(
    name=st.sampled_from(["tensors.safetensors", "facts.json"]),
    cut=st.floats(0, 1),
    byte=st.integers(0, 255),
    shorten=st.booleans(),
)
def test_damaged_bytes_are_one_clear_error(
    small_folder, tmp_path_factory, name, cut, byte, shorten
):
    folder = shutil.copytree(small_folder, tmp_path_factory.mktemp("damaged") / "view")
    content = bytearray((folder / name).read_bytes())
    place = int(cut * (len(content) - 1))
    content = content[:place] if shorten else content[:place] + bytes([byte]) + content[place + 1 :]
    (folder / name).write_bytes(content)
    if shorten:
        with pytest.raises(SltoolsError):
            View.open(folder)
    else:
        opens_or_says_why(folder)


def replaced(value, chance, junk):
    """Copy nested facts, replacing parts of them by junk."""
    if chance.random() < 0.1:
        return junk
    if isinstance(value, dict):
        return {key: replaced(part, chance, junk) for key, part in value.items()}
    if isinstance(value, list):
        return [replaced(part, chance, junk) for part in value]
    return value


@few
@given(
    seed=st.integers(0, 10**6),
    junk=st.sampled_from([None, -1, 0, 1.5, "x", "", [], {}, [[]], [["Linear", {}]], True, "[1]"]),
)
def test_damaged_facts_are_one_clear_error(small_folder, tmp_path_factory, seed, junk):
    folder = shutil.copytree(small_folder, tmp_path_factory.mktemp("damaged") / "view")
    facts = json.loads((folder / "facts.json").read_text())
    facts = replaced(facts, random.Random(seed), junk)
    (folder / "facts.json").write_text(json.dumps(facts))
    opens_or_says_why(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda facts: facts.pop("messages"),
        lambda facts: facts["messages"].append(facts["messages"][0]),  # a tensor is missing
        lambda facts: facts["messages"][0].update(kind="images"),
        lambda facts: facts["networks"].update(
            own_model=Architecture.of(models.mnist_net()).layers
        ),
        lambda facts: facts["networks"].update(own_model='["Linear", {"in_features": 1}]'),
        lambda facts: facts["granted_steps"]["anchor_labels"].append(99),
        lambda facts: facts.update(party="eavesdropper"),
        lambda facts: facts["granted_steps"].update(images=[]),
        lambda facts: facts["networks"].update(images=facts["networks"]["client_model"]),
    ],
)
def test_facts_that_do_not_fit_are_refused(small_folder, tmp_path, damage):
    folder = shutil.copytree(small_folder, tmp_path / "view")
    facts = json.loads((folder / "facts.json").read_text())
    damage(facts)
    (folder / "facts.json").write_text(json.dumps(facts))
    with pytest.raises(SltoolsError):
        View.open(folder)


def test_a_description_cannot_ask_for_memory_that_the_file_does_not_have(small_folder, tmp_path):
    folder = shutil.copytree(small_folder, tmp_path / "view")
    facts = json.loads((folder / "facts.json").read_text())
    huge = ["Linear", {"in_features": 10**9, "out_features": 10**9, "bias": False}]
    facts["networks"]["own_model"] = json.dumps(["Sequential", [["0", huge]]])
    (folder / "facts.json").write_text(json.dumps(facts))
    with pytest.raises(SltoolsError, match="damaged"):
        View.open(folder)
