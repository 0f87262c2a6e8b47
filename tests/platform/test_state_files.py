"""A nested state comes back from a file of tensors and JSON as it was, and no file of it can run code."""

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file
from sdavs_platform.state_files import read_state, write_state


@dataclass
class Scale:
    value: float
    dynamic: bool = False


def test_numbers_names_tensors_and_their_nesting_come_back_as_they_were(tmp_path):
    state = {
        "step": 7,
        "rate": float("inf"),
        "stopped": None,
        0: [1, (2, "three"), torch.Size([4, 5]), True],
        "moments": OrderedDict(a=torch.arange(6.0).view(2, 3).t(), b=torch.tensor(1, dtype=torch.bfloat16)),
        "random": torch.get_rng_state(),
        "empty": [torch.zeros(0), {}, ()],
    }
    write_state(state, tmp_path / "s.safetensors")
    found = read_state(tmp_path / "s.safetensors")
    assert found.keys() == state.keys()
    assert {name: found[name] for name in ("step", "rate", "stopped", 0)} == {
        "step": 7,
        "rate": float("inf"),
        "stopped": None,
        0: [1, (2, "three"), torch.Size([4, 5]), True],
    }
    assert type(found[0][2]) is torch.Size
    assert found["moments"]["b"].dtype == torch.bfloat16
    assert torch.equal(found["moments"]["a"], state["moments"]["a"])
    assert torch.equal(found["random"], state["random"])
    assert found["empty"][0].shape == (0,)
    assert found["empty"][1:] == [{}, ()]


def test_tied_weights_are_stored_once_and_parts_of_one_buffer_each_for_itself(tmp_path):
    flat = torch.arange(1000.0)
    write_state({"a": flat[:10], "b": flat[10:20], "tied": flat[:10]}, tmp_path / "s.safetensors")
    found = read_state(tmp_path / "s.safetensors")
    assert found["tied"] is found["a"]
    assert torch.equal(found["b"], flat[10:20])
    assert (tmp_path / "s.safetensors").stat().st_size < 1000


def test_objects_of_named_classes_come_back_and_others_are_refused_on_both_ways(tmp_path):
    file = tmp_path / "s.safetensors"
    write_state([Scale(2.0, dynamic=True)], file, classes=[Scale])
    assert read_state(file, classes=[Scale]) == [Scale(2.0, dynamic=True)]
    with pytest.raises(ValueError, match="refused; it holds a Scale"):
        read_state(file)
    with pytest.raises(TypeError, match="/0/rule: a function cannot be stored"):
        write_state([{"rule": lambda: 0}], file)


def test_other_safetensors_files_are_no_states(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="not the state of a training"):
        read_state(tmp_path / "weights.safetensors")
