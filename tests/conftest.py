"""For all tests: whatever imports transformers first finds the torchvision that parity tests need, if it is installed."""

from __future__ import annotations

from tests.torchvision_shim import install

install()  # transformers asks only once; this imports neither torch nor torchvision
