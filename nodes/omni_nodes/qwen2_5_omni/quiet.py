"""Keeps off the terminal what transformers says about every sound Qwen2.5-Omni checkpoint, and nothing else.

It warns that the Talker's config holds ids of the Thinker's vocabulary, which it is meant to; and it draws progress bars.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

_WARNING = "Model config: %s must be `None` or an integer within the vocabulary"
_CHECKED_BY = "transformers.configuration_utils"


@contextmanager
def no_token_id_warning() -> Iterator[None]:
    """While a Qwen2.5-Omni config is read: PretrainedConfig.validate_token_ids does not warn."""
    logger = logging.getLogger(_CHECKED_BY)
    logger.addFilter(_is_something_else)
    try:
        yield
    finally:
        logger.removeFilter(_is_something_else)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """While a model is saved: no bar, whatever the verbosity."""
    before = transformers_logging.set_tqdm_hook(lambda _, args, kwargs: transformers_logging.EmptyTqdm(*args, **kwargs))
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(before)


def _is_something_else(record: logging.LogRecord) -> bool:
    head, tail = _WARNING.split("%s")
    message = record.getMessage()
    return not (message.startswith(head) and tail in message)
