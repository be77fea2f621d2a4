"""Files of weights and model folders that are damaged, foreign or hostile.

Each must end in an error that names the file and says what to do; none may run code, and none may leave a network with
half of its weights.
"""

import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.errors import ModelError, NnrulesError
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan
from safetensors.torch import save_file
from torch import nn

from nnrules_runtime.network.model import read_model, write_model
from nnrules_runtime.network.model_import import import_nnunetv2
from nnrules_runtime.network.nnunetv2 import load_nnunetv2_weights, read_nnunetv2_checkpoint
from nnrules_runtime.network.weights import load_weights, read_weights, save_weights

NAME = "3d_fullres"
Spoil = Callable[[dict[str, Any]], object]


class Net(nn.Module):
    """The smallest network with two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 2)


class Bomb:
    """A pickle that creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(path, Net(), {"plan_hash": "sha256:1"})
    return path


def refused(path: Path, text: str) -> str:
    """Loading fails with this text, and the network stays as it was."""
    network = Net()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ModelError, match=text) as caught:
        load_weights(path, network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    (problem,) = caught.value.problems
    assert problem.where == str(path)
    assert problem.fix
    return str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "no weights to read")


def test_a_folder(tmp_path: Path) -> None:
    refused(tmp_path, "no weights to read")


def test_pickles_are_named_and_never_opened(tmp_path: Path) -> None:
    bomb, mark = tmp_path / "bomb.safetensors", tmp_path / "mark"
    for protocol in (2, 3, 4, 5):
        bomb.write_bytes(pickle.dumps(Bomb(mark), protocol=protocol))
        refused(bomb, "this is a pickle")
    torch.save({"weights": Bomb(mark)}, bomb)
    refused(bomb, "this is a pickle")
    # The oldest protocol has no mark at its start: it is just no safetensors file.
    bomb.write_bytes(pickle.dumps(Bomb(mark), protocol=0))
    refused(bomb, "damaged or cut off")
    assert not mark.exists()


def test_every_cut_is_found(weights: Path) -> None:
    content = weights.read_bytes()
    for length in range(len(content)):
        weights.write_bytes(content[:length])
        refused(weights, "damaged or cut off")


def test_bytes_after_the_end_are_found(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes() + b"\0")
    refused(weights, "damaged or cut off")


@pytest.mark.parametrize(
    "header",
    [
        b"{}x",
        b"[]",
        b'{"first.weight": 3}',
        b'{"a": {"dtype": "F32", "shape": [99999999999], "data_offsets": [0, 399999999996]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "Q7", "shape": [1], "data_offsets": [0, 4]}}',
        b"\xff\xfe",
        b"{" * 5000,
    ],
)
def test_a_header_that_lies(weights: Path, header: bytes) -> None:
    weights.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
    refused(weights, "damaged or cut off")


def test_a_header_that_is_larger_than_any(weights: Path) -> None:
    weights.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    refused(weights, "damaged or cut off")


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.safetensors"
    path.write_bytes(content)
    try:
        load_weights(path, Net())
    except ModelError:
        return
    pytest.fail("these bytes are no weights of this network")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite(tmp_path: Path, value: float) -> None:
    network = Net()
    with torch.no_grad():
        network.first.weight[1, 2] = value
    save_weights(tmp_path / "w.safetensors", network, {})
    assert "first.weight" in refused(tmp_path / "w.safetensors", "not finite")


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({}, "first.weight is missing"),
        ({"first.weight": torch.zeros(2, 3)}, "first.bias is missing"),
        ({"first.weight": torch.zeros(3, 2), "first.bias": torch.zeros(2)}, "3×2 instead of 2×3"),
        (
            {"first.weight": torch.zeros(2, 3, dtype=torch.int32), "first.bias": torch.zeros(2)},
            "holds torch.int32",
        ),
        (
            {"first.weight": torch.zeros(2, 3), "first.bias": torch.zeros(2), "more": torch.zeros(1)},
            "more is unknown",
        ),
    ],
)
def test_another_networks_weights(tmp_path: Path, state: dict[str, torch.Tensor], text: str) -> None:
    save_file(state, tmp_path / "w.safetensors")
    assert text in refused(tmp_path / "w.safetensors", "of another plan")


# Checkpoints of nnU-Net v2


def checkpoint(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_hostile_checkpoints_run_nothing(tmp_path: Path) -> None:
    path, mark = tmp_path / "checkpoint_final.pth", tmp_path / "mark"
    for content in (
        Bomb(mark),
        {"network_weights": {}, "logging": Bomb(mark)},
        {"network_weights": {"a": Bomb(mark)}},
        {"network_weights": {}, "logging": np.array([Bomb(mark)], dtype=object)},
    ):
        checkpoint(path, content)
        with pytest.raises(ModelError, match="more than numbers and text") as caught:
            load_nnunetv2_weights(path)
        assert "Nothing in the file was run" in str(caught.value)
        # a pickle without torch's archive round it, as old torch wrote
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ModelError):
            load_nnunetv2_weights(path)
    assert not mark.exists()
    checkpoint(path, Bomb(mark))
    with pytest.raises(ModelError, match=rf"{os.system.__module__}\.system"):
        load_nnunetv2_weights(path)
    # The bomb is live: whoever reads it as a plain pickle gets the file.
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"network_weights": None},
        {"network_weights": {}},
        {"network_weights": {"a": 3}},
        {"network_weights": {"a": torch.zeros(1)}},
        {"state_dict": {"encoder.stages.0.0.convs.0.conv.weight": torch.zeros(1)}},
        {3: 4},
    ],
    ids=str,
)
def test_other_checkpoints_are_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ModelError, match="no checkpoint of nnU-Net v2"):
        load_nnunetv2_weights(checkpoint(tmp_path / "c.pth", content))


@pytest.mark.parametrize(
    "content", [b"", b"text", b"PK\x03\x04", b"\x80\x02}q\0.", b"\x80\x04\x95" + b"\xff" * 40]
)
def test_damaged_checkpoints_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged|no checkpoint"):
        load_nnunetv2_weights(tmp_path / "c.pth")


def test_cut_checkpoints_are_refused(tmp_path: Path) -> None:
    state = {"encoder.stages.0.0.convs.0.conv.weight": torch.ones(40)}
    content = checkpoint(tmp_path / "c.pth", {"network_weights": state}).read_bytes()
    assert list(load_nnunetv2_weights(tmp_path / "c.pth")) == ["encoder.0.0.conv.weight"]
    for length in range(1, len(content), 37):
        (tmp_path / "c.pth").write_bytes(content[:length])
        with pytest.raises(ModelError):
            load_nnunetv2_weights(tmp_path / "c.pth")


def test_a_checkpoint_that_is_no_archive_of_torch(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelError, match="no checkpoint of nnU-Net v2"):
        load_nnunetv2_weights(tmp_path / "c.pth")


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such checkpoint"):
        load_nnunetv2_weights(tmp_path / "c.pth")


def test_a_checkpoint_with_nan_is_refused(tmp_path: Path) -> None:
    state = {"encoder.stages.0.0.convs.0.conv.weight": torch.tensor([float("nan")])}
    with pytest.raises(ModelError, match="not finite"):
        load_nnunetv2_weights(checkpoint(tmp_path / "c.pth", {"network_weights": state}))


def test_what_a_checkpoint_lacks_is_none(tmp_path: Path) -> None:
    state = {"module.encoder.stages.0.0.convs.0.conv.weight": torch.ones(2)}
    content = {
        "network_weights": state,
        "init_args": [],
        "inference_allowed_mirroring_axes": "xy",
        "current_epoch": np.float32(1),
        "_best_ema": np.float64(0.5),
    }
    read = read_nnunetv2_checkpoint(checkpoint(tmp_path / "c.pth", content))
    assert (read.mirror_axes, read.plans, read.configuration, read.epoch) == (None, None, None, None)


# Model folders


@pytest.fixture(scope="module")
def plan(make_fingerprint: Callable[..., Fingerprint]) -> Plan:
    fingerprint = make_fingerprint(shape=((20, 24, 24),) * 3, spacing=((1.0, 1.0, 1.0),) * 3)
    return make_plan(fingerprint, load_pack("nnunet@2.8.0"))


@pytest.fixture
def folder(tmp_path: Path, plan: Plan) -> Path:
    fold = tmp_path / "models" / NAME / "fold_0"
    write_model(fold, Net(), plan=plan, configuration=NAME, fold=0)
    return fold


def spoil_file(document: dict[str, Any], name: str) -> None:
    document["weights"]["final"]["file"] = name


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda d: d.pop("fold"), "a field is missing"),
        (lambda d: d.update(fold=-1), "fold"),
        (lambda d: d.update(fold="some"), "fold"),
        (lambda d: d.update(weights={}), "too few entries"),
        (lambda d: d.update(schema_version="2.0"), "wrong form"),
        (lambda d: d.update(surprise=1), "unknown field"),
        (lambda d: d.update(mirror_axes=[0, 0]), "stands twice"),
        (lambda d: d.update(mirror_axes=[7]), "mirror_axes"),
        (lambda d: d.update(configuration="4d"), "no such configuration"),
        (lambda d: d.update(network_digest="sha256:" + "0" * 64), "of another plan"),
        (lambda d: spoil_file(d, "../final.safetensors"), "wrong form"),
        (lambda d: spoil_file(d, "/etc/passwd"), "wrong form"),
        (lambda d: spoil_file(d, "..\\final.safetensors"), "wrong form"),
        (lambda d: spoil_file(d, "final.pth"), "wrong form"),
        (lambda d: spoil_file(d, "other.safetensors"), "weights are missing"),
        (
            lambda d: d["weights"]["final"].update(sha256="0" * 64),
            "not the weights that model.json describes",
        ),
    ],
)
def test_a_spoiled_model_document(folder: Path, spoil: Spoil, text: str) -> None:
    path = folder / "model.json"
    document = json.loads(path.read_text())
    spoil(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ModelError, match=text) as caught:
        read_model(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"a": 1, "a": 2}'])
def test_a_model_document_that_is_none(folder: Path, content: bytes) -> None:
    (folder / "model.json").write_bytes(content)
    with pytest.raises(ModelError):
        read_model(folder)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.json"):
        read_model(tmp_path)


def test_a_checkpoint_that_was_not_kept(folder: Path) -> None:
    with pytest.raises(ModelError, match="no such checkpoint"):
        read_model(folder, "best")


def test_one_flipped_bit_is_found(folder: Path) -> None:
    path = next(folder.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not the weights"):
        read_model(folder)


def test_weights_of_another_network_under_a_right_document(folder: Path) -> None:
    with pytest.raises(ModelError, match="do not fit the network"):
        read_model(folder).network()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"schema_version": "9.0"}'])
def test_a_damaged_plan_beside_a_model(folder: Path, content: bytes) -> None:
    (folder.parent / "plan.json").write_bytes(content)
    with pytest.raises(NnrulesError, match=r"plan\.json"):
        read_model(folder)


@pytest.mark.parametrize(
    ("plans", "dataset"),
    [(None, "{}"), ("[]", "{}"), ("{}", None), ("{", "{}")],
)
def test_a_model_folder_of_nnunet_that_is_none(
    tmp_path: Path, plan: Plan, plans: str | None, dataset: str | None
) -> None:
    for name, text in (("plans.json", plans), ("dataset.json", dataset)):
        if text is not None:
            (tmp_path / name).write_text(text)
    with pytest.raises(ModelError):
        import_nnunetv2(tmp_path, plan, NAME, tmp_path / "ours")


@pytest.mark.parametrize(
    "plans",
    [
        {},
        {"configurations": []},
        {"configurations": {NAME: []}},
        {"configurations": {NAME: {"inherits_from": NAME}}},
        {"configurations": {NAME: {"normalization_schemes": 3}}},
        {"configurations": {NAME: {"architecture": [], "resampling_fn_data_kwargs": []}}},
        {"configurations": {NAME: {}}, "foreground_intensity_properties_per_channel": [1]},
    ],
    ids=str,
)
def test_plans_of_nnunet_that_are_none(tmp_path: Path, plan: Plan, plans: dict[str, Any]) -> None:
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    (tmp_path / "dataset.json").write_text("{}")
    (tmp_path / "fold_0").mkdir()
    state = {"encoder.stages.0.0.convs.0.conv.weight": torch.ones(2)}
    content = {"network_weights": state, "init_args": {"configuration": NAME}}
    checkpoint(tmp_path / "fold_0" / "checkpoint_final.pth", content)
    with pytest.raises(ModelError):
        import_nnunetv2(tmp_path, plan, NAME, tmp_path / "ours")


def test_reading_does_not_warn(weights: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_weights(weights)[1] == {"plan_hash": "sha256:1"}
