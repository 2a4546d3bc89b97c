"""Packed linear layers give what the layers they replace give, and nothing else of a module changes."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from omni_nodes import linears
from omni_nodes.linears import PackedLinear, fuse_gelu, pack_linears

torch.set_num_threads(1)
SIZES = st.integers(1, 80)


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


class Twice(nn.Module):
    """A layer by itself, one inside another module, and a head that shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6).requires_grad_(False)
        self.first = linear(6, 6)
        self.rest = nn.Sequential(nn.SiLU(), linear(6, 6))
        self.head = linear(6, 9, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.rest(self.first(self.embedding(ids))))
        return result


@settings(deadline=None, max_examples=40)
@given(SIZES, SIZES, st.lists(st.integers(0, 5), max_size=3), st.booleans())
def test_a_packed_layer_gives_the_same(inputs: int, outputs: int, shape: list[int], bias: bool) -> None:
    plain = linear(inputs, outputs, bias)
    rows = torch.randn(*shape, inputs)
    result = pack_linears(plain)(rows)
    assert result.shape == (*shape, outputs)
    assert torch.allclose(result, functional.linear(rows, plain.weight, plain.bias), atol=1e-5)


def test_rows_need_not_lie_in_order() -> None:
    plain = linear(32, 8)
    rows = torch.randn(5, 3, 64).transpose(0, 1)[..., ::2]
    assert torch.allclose(pack_linears(plain)(rows), plain(rows), atol=1e-5)


def test_a_module_is_packed_in_place_and_a_shared_weight_stays_where_it_is_read() -> None:
    module, ids = Twice(), torch.arange(9)
    expected = module(ids)
    assert pack_linears(module) is module
    assert [type(layer) for layer in (module.first, module.rest[1], module.head)] == [PackedLinear] * 3
    assert torch.allclose(module(ids), expected, atol=1e-5)
    assert dict(module.named_parameters()).keys() == {"embedding.weight"}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the maps of a process are Linux's")
def test_nothing_refers_to_the_memory_a_module_was_loaded_into(tmp_path: Path) -> None:
    """The map of a weights file goes with the last tensor on it; held by one embedding, it would double the memory."""
    file = tmp_path / "weights.safetensors"
    save_file({name: tensor.clone() for name, tensor in Twice().state_dict().items()}, file)
    module = Twice()
    module.load_state_dict(load_file(file), assign=True)
    module.head.weight = module.embedding.weight
    expected = module(torch.arange(9))
    pack_linears(module)
    gc.collect()
    assert file.name not in Path("/proc/self/maps").read_text()
    assert torch.allclose(module(torch.arange(9)), expected, atol=1e-5)


def test_packing_twice_changes_nothing_more() -> None:
    module = pack_linears(Twice())
    once = module.first
    assert pack_linears(module).first is once


def test_what_cannot_be_packed_stays_as_it_is() -> None:
    whole, elsewhere = nn.Linear(4, 4, dtype=torch.float64), nn.Linear(4, 4, device="meta")
    assert pack_linears(whole) is whole
    assert pack_linears(elsewhere) is elsewhere


def test_a_torch_without_the_operators_keeps_its_layers_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    linears._packed_dtypes.cache_clear()
    try:
        module = Twice()
        assert type(pack_linears(module).first) is nn.Linear
        assert "no packed oneDNN linear layers" in caplog.text
    finally:
        linears._packed_dtypes.cache_clear()


def test_input_of_another_width_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        pack_linears(linear(6, 6))(torch.randn(2, 7))


def test_a_gelu_behind_a_layer_is_computed_with_it() -> None:
    layers = nn.ModuleList([linear(8, 24), nn.GELU(approximate="tanh"), nn.Dropout(0.0), linear(24, 8)]).eval()
    rows = torch.randn(7, 8)
    expected = through(layers, rows)
    fuse_gelu(layers)
    assert [type(layer) for layer in layers] == [PackedLinear, nn.Identity, nn.Dropout, nn.Linear]
    assert torch.allclose(through(layers, rows), expected, atol=1e-5)


def test_another_gelu_is_left_alone() -> None:
    layers = nn.ModuleList([linear(8, 8), nn.GELU()])
    fuse_gelu(layers)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.GELU]


def through(layers: nn.ModuleList, rows: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        rows = layer(rows)
    return rows
