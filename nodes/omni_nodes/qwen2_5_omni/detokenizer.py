"""From token ids to text, a token at a time: characters are never split, stop strings never shown.

Works on bytes, as byte-level BPE does (GPT-2, ``bytes_to_unicode``), so what it has said never has to be taken back:
the pieces concatenate to the tokenizer's ``decode(ids, skip_special_tokens=True)``. Ids unknown to it give no text.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import TYPE_CHECKING

from omni_nodes.qwen2_5_omni.settings import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Vocabulary:
    """The bytes that each token id stands for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._bytes = _byte_of_character()

    @classmethod
    def open(cls, folder: Path) -> Vocabulary:
        """From ``tokenizer.json``. Raises CheckpointError when there is none or it is not byte-level BPE."""
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file; is the download complete?")
        tokenizer = Tokenizer.from_file(str(file))
        decoder = (json.loads(tokenizer.to_str()).get("decoder") or {}).get("type")
        if decoder != "ByteLevel":
            raise CheckpointError(f"{file}: its decoder is {decoder!r}; this model's tokenizer is byte-level BPE")
        return cls(tokenizer)

    def bytes_of(self, token_id: int) -> bytes:
        """The token's bytes; none for special tokens and for ids that the tokenizer does not have."""
        if token_id in self._special:
            return b""
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if all(character in self._bytes for character in token):
            return bytes(self._bytes[character] for character in token)
        return str(token).encode()  # an added token with other characters stands for itself


class Detokenizer:
    """One reply's text. ``push`` returns what may be shown now; text that could still become a stop string waits."""

    def __init__(self, vocabulary: Vocabulary, stop: tuple[str, ...] = ()) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = stop
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that ``token_id`` completes. Once a stop string came, ``stopped`` is True and no text follows."""
        return self._release(self._decoder.decode(self._vocabulary.bytes_of(token_id)))

    def finish(self) -> str:
        """The rest: held text, and a replacement character for a character that was never completed."""
        text = self._release(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that ``stop`` begins with, short of all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable alphabet for bytes: printable Latin-1 stands for itself, the rest for U+0100 and up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}
