"""Tiny checkpoints, built once a session, and transformers' model of each as the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from tests import torchvision_shim

if TYPE_CHECKING:
    from tests.nodes.qwen2_5_omni.reference import Reference

torchvision_shim.install()  # before anything here imports transformers, which asks once whether there is a torchvision
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def auto_is_the_cpu() -> Iterator[None]:
    """What these tests build computes on the CPU, and so in float32, as the oracle does: on a machine with a GPU too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


def _reference(folder: Path) -> Reference:
    from tests.nodes.qwen2_5_omni.reference import Reference

    return Reference(folder)


Built = Callable[[str, int], Path]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The tiny checkpoint of a shape and a seed, built when it is first asked for. Read only."""
    from omni_nodes.qwen2_5_omni.tiny import build_tiny

    @cache
    def build(shape: str, seed: int) -> Path:
        folder = tmp_path_factory.mktemp("tiny") / shape
        build_tiny(folder, seed, shape)
        return folder

    return build


@pytest.fixture(scope="session")
def tiny_folder(built: Built) -> Path:
    """The default tiny checkpoint, seed 0. Read only."""
    return built("default", 0)


@pytest.fixture(scope="session")
def odd_folder(built: Built) -> Path:
    """The odd shape, in the hub's file layout. Read only."""
    return built("odd", 0)


@pytest.fixture(scope="session")
def stopping_folder(built: Built) -> Path:
    """The shape whose Thinker and Talker end by themselves. Read only."""
    return built("stopping", 0)


@pytest.fixture(scope="session")
def reference(tiny_folder: Path) -> Reference:
    """transformers' model of ``tiny_folder``."""
    return _reference(tiny_folder)


@pytest.fixture(scope="session")
def odd_reference(odd_folder: Path) -> Reference:
    """transformers' model of ``odd_folder``."""
    return _reference(odd_folder)


@pytest.fixture(scope="session")
def stopping_reference(stopping_folder: Path) -> Reference:
    """transformers' model of ``stopping_folder``."""
    return _reference(stopping_folder)
