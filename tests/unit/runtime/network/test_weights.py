"""Weights come back as they were written, whatever the network lay like in memory."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nnrules.errors import ModelError, RunError

from nnrules_runtime.network import UNet
from nnrules_runtime.network.weights import load_weights, read_weights, save_weights

Make = Callable[..., UNet]


def bits(network: UNet) -> dict[str, bytes]:
    return {name: value.contiguous().numpy().tobytes() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_there_and_back_to_the_bit(make_network: Make, tmp_path: Path, layout: torch.memory_format) -> None:
    network = make_network().to(memory_format=layout)
    save_weights(tmp_path / "w.safetensors", network, {"configuration": "3d"})
    other = make_network(biases={"convolution": True, "transposed_convolution": True, "head": True})
    torch.nn.init.zeros_(other.heads[0].weight)
    assert load_weights(tmp_path / "w.safetensors", other) == {"configuration": "3d"}
    assert bits(other) == bits(network)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_compiled_network_loads_and_saves_plain_names(make_network: Make, tmp_path: Path) -> None:
    network = make_network()
    compiled = torch.compile(network, backend="eager")
    save_weights(tmp_path / "w.safetensors", compiled, {})
    tensors, _ = read_weights(tmp_path / "w.safetensors")
    assert sorted(tensors) == sorted(network.state_dict())
    target = torch.compile(make_network(), backend="eager")
    load_weights(tmp_path / "w.safetensors", target)


def test_the_header_is_text_that_anyone_can_read(make_network: Make, tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", make_network(), {"plan_hash": "sha256:1"})
    content = (tmp_path / "w.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert header["__metadata__"] == {"plan_hash": "sha256:1"}
    assert header["heads.0.weight"]["shape"] == [3, 4, 1, 1, 1]


def test_the_same_weights_have_the_same_bytes(make_network: Make, tmp_path: Path) -> None:
    metadata = {f"{letter} é": f"sha256:{letter}\n" for letter in "hcagbfde"}
    network = make_network()
    for number in range(8):
        save_weights(tmp_path / f"{number}.safetensors", network, metadata)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert read_weights(tmp_path / "0.safetensors")[1] == metadata


def test_another_network_is_refused_and_left_as_it_was(make_network: Make, tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", make_network(), {"plan_hash": "sha256:a", "configuration": "3d"})
    other = make_network(features_per_stage=[4, 6, 8], blocks_per_stage_encoder=[2, 2, 2])
    before = bits(other)
    expected = {"plan_hash": "sha256:b", "configuration": "3d"}
    with pytest.raises(ModelError) as caught:
        load_weights(tmp_path / "w.safetensors", other, where="fold 0", expected=expected)
    message = str(caught.value)
    assert message.startswith("fold 0: these weights are of another plan")
    assert "plan sha256:a instead of sha256:b" in message
    assert "configuration" not in message.split("(")[1].split(")", maxsplit=1)[0]
    assert "encoder.0.1.conv.weight is missing" in message
    assert "more" in message
    assert bits(other) == before


def test_nowhere_to_write_is_said(make_network: Make, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written"):
        save_weights(tmp_path / "no" / "w.safetensors", make_network(), {})


def test_content_in_memory_is_read_like_the_file(make_network: Make, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, make_network(), {"plan_hash": "sha256:1"})
    content = path.read_bytes()
    of_file, of_bytes = read_weights(path), read_weights(content)
    assert of_bytes[1] == of_file[1] == {"plan_hash": "sha256:1"}
    assert sorted(of_bytes[0]) == sorted(of_file[0])
    assert all(torch.equal(tensor, of_file[0][name]) for name, tensor in of_bytes[0].items())
    other = make_network()
    torch.nn.init.zeros_(other.heads[0].weight)
    load_weights(content, other)
    assert bits(other) == bits(make_network())
    without = tmp_path / "plain.safetensors"
    save_weights(without, make_network(), {})
    assert read_weights(without.read_bytes())[1] == read_weights(without)[1] == {}


def test_damaged_content_in_memory_is_refused(make_network: Make, tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", make_network(), {})
    content = (tmp_path / "w.safetensors").read_bytes()
    network = make_network()
    before = bits(network)
    for damaged in (*(content[:length] for length in range(0, len(content), 97)), content + b"\0", b"\0" * 8):
        with pytest.raises(ModelError, match="damaged or cut off") as caught:
            load_weights(damaged, network, where="fold 3")
        assert str(caught.value).startswith("fold 3: ")
    with pytest.raises(ModelError, match="this is a pickle"):
        load_weights(b"\x80\x04}.", network)
    assert bits(network) == before
