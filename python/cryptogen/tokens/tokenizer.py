"""Text <-> token ids, over the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path

import tokenizers

from cryptogen.errors import InputError, MissingFile, TokenizerError
from cryptogen.tokens.chat import END, START, ChatML, Message
from cryptogen.tokens.stream import StreamDecoder


class Tokenizer:
    """A tokenizer and, for instruction-tuned models, the chat format."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, chat: ChatML | None = None) -> None:
        self._tokenizer, self.chat = tokenizer, chat

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer.json. `MissingFile`, `TokenizerError`."""
        path = Path(path)
        if not path.exists():
            raise MissingFile(path, "tokenizer")
        return cls.from_json(path.read_text(encoding="utf-8", errors="replace"), source=str(path))

    @classmethod
    def from_json(cls, text: str, source: str = "tokenizer") -> Tokenizer:
        """Read the text of a tokenizer.json. `TokenizerError`."""
        try:
            return cls(tokenizers.Tokenizer.from_str(text))
        except Exception as e:  # the library raises bare Exception
            raise TokenizerError(f"{source}: not a tokenizer.json ({e})") from e

    def to_json(self) -> str:
        """The text of a tokenizer.json (without the chat format)."""
        return str(self._tokenizer.to_str())

    def with_chat_template(self, template: str) -> Tokenizer:
        """Add the chat format if a Jinja template is ChatML and the vocabulary has its two tokens;
        else unchanged."""
        start, end = self.token_id(START), self.token_id(END)
        if START not in template or start is None or end is None:
            return self
        return Tokenizer(self._tokenizer, ChatML.from_template(template, start, end))

    @property
    def size(self) -> int:
        """Number of tokens, special ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def vocabulary(self) -> dict[str, int]:
        """Name → id of every token, special ones included."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    def token_id(self, token: str) -> int | None:
        """Id of a token by its exact name."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Ids of a text; `special` adds the begin-of-sequence token of models trained with one."""
        try:
            text.encode()
        except UnicodeEncodeError as e:  # what bytes that are not UTF-8 become on a command line
            raise TokenizerError(f"UTF-8 text expected, character {e.start + 1} is none") from None
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=special).ids)
        except Exception as e:  # a character without a token: the text stays out of the message
            raise TokenizerError(f"the tokenizer cannot encode this text ({type(e).__name__})") from None

    def encode_chat(self, messages: Sequence[Message], begins: bool = True) -> list[int]:
        """Ids of a conversation, ending in an open assistant turn; `begins` as in `ChatML.render`.
        `InputError` if the model has no chat format."""
        if self.chat is None:
            raise InputError("this model has no chat format that is known here (ChatML)")
        return self.encode(self.chat.render(messages, begins), special=False)

    def chat_head(self) -> list[int]:
        """The ids that conversations without a system message of their own begin with, whatever the
        user says first; none without a chat format."""
        if self.chat is None:
            return []
        texts = ("a", "\n", " ", "1")  # what may grow together with the line break in front of it
        return list(commonprefix([self.encode_chat([{"role": "user", "content": text}]) for text in texts]))

    def decode(self, tokens: Sequence[int], skip_special: bool = True) -> str:
        """Text of ids; `InputError` for ids that do not fit the library's 32 bits. Unknown ids
        decode to nothing."""
        if any(not 0 <= t < 1 << 32 for t in tokens):
            raise InputError("token id outside 0..2^32 − 1")
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=skip_special))

    def stream(self, skip_special: bool = True) -> StreamDecoder:
        """A decoder for tokens that come one at a time."""
        return StreamDecoder(lambda tokens: self.decode(tokens, skip_special))
