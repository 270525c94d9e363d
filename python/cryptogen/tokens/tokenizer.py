"""Text <-> token ids, over the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path

import tokenizers

from cryptogen.errors import ChatTemplateError, InputError, MissingFile, TokenizerError
from cryptogen.tokens.chat import PLACEHOLDER, ChatTemplate, Message
from cryptogen.tokens.stream import StreamDecoder

_FIRST = ("a", "\n", " ", "1")  # first characters that may grow together with what stands in front of them


@dataclass(frozen=True)
class Written:
    """A conversation as a model reads it.

    Attributes:
        text: Of all of it, with a placeholder for a system message that is not known.
        tokens: Its ids, without those of that message.
    """

    text: str
    tokens: list[int]


class Tokenizer:
    """A tokenizer and, for instruction-tuned models, the chat template."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, chat: ChatTemplate | None = None) -> None:
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
        """The text of a tokenizer.json (without the chat template)."""
        return str(self._tokenizer.to_str())

    def with_chat(self, template: ChatTemplate | None) -> Tokenizer:
        """The same tokenizer with another chat template, or none."""
        return Tokenizer(self._tokenizer, template)

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

    def encode_chat(self, messages: Sequence[Message], behind_system: bool = False) -> list[int]:
        """The ids of `write_chat`."""
        return self.write_chat(messages, behind_system).tokens

    def write_chat(self, messages: Sequence[Message], behind_system: bool = False) -> Written:
        """A conversation, ending in an open assistant turn. The template writes the
        begin-of-sequence token, if there is one: none is added.

        Args:
            messages: What was said.
            behind_system: The conversation stands behind the rows of a system message that is not
                known here: only what follows those (`chat_head` of that message).

        Raises:
            ChatTemplateError: There is no template, or it refuses these messages.
            InputError: As `ChatTemplate.render`.
        """
        if not behind_system:
            text = self._template().render(messages)
            return Written(text, self.encode(text, special=False))
        # A placeholder stands for the message: what is written behind it does not depend on it.
        unknown: Message = {"role": "system", "content": PLACEHOLDER}
        whole, *others = self._template().render_all([([unknown, *messages], True), *_openings(unknown)])
        head = self._common(others, PLACEHOLDER)
        if isinstance(whole, ChatTemplateError):
            raise whole
        tokens = self.encode(whole, special=False)
        if tokens[: len(head)] != head:
            raise ChatTemplateError("what it writes behind a system message depends on that message")
        return Written(whole, tokens[len(head) :])

    def follows(self, text: str) -> list[int] | None:
        """Ids of what a template writes behind an answer, if they are the same whatever that is:
        the text begins with a special token. None otherwise."""
        tokens = self.encode(text, special=False)
        special = self._tokenizer.get_added_tokens_decoder()
        sound = tokens and tokens[0] in special and text.startswith(special[tokens[0]].content)
        return tokens if sound else None

    def chat_head(self, system: str | None = None) -> list[int]:
        """The ids that conversations begin with, whatever the user says first: those without a
        system message of their own, or those behind `system`. Rendered of placeholders, never of
        what somebody has said.

        Raises:
            ChatTemplateError: There is no template, or it refuses such conversations.
        """
        if system is None:
            return self._common(self._template().render_all([([_user(text)], True) for text in _FIRST]))
        return self._common(self._template().render_all(_openings({"role": "system", "content": system})), system)

    def chat_end(self) -> int | None:
        """The token that ends the assistant's turn: the first one behind its words, if that is a
        special token. `ChatTemplateError` as `chat_head`."""
        said: Message = {"role": "assistant", "content": PLACEHOLDER}
        text = self._template().render([_user("a"), said], opened=False)
        behind = text.rpartition(PLACEHOLDER)[2].lstrip()
        first = self.encode(behind, special=False)[:1] if PLACEHOLDER in text else []
        special = self._tokenizer.get_added_tokens_decoder()
        return next((t for t in first if t in special and special[t].special), None)

    def _template(self) -> ChatTemplate:
        if self.chat is None:
            raise ChatTemplateError("this model has none")
        return self.chat

    def _common(self, texts: Sequence[str | ChatTemplateError], system: str = "") -> list[int]:
        """What the ids of all texts begin with that the template does not refuse, and in which
        `system` stands; its error if it refuses the first."""
        if isinstance(texts[0], ChatTemplateError):
            raise texts[0]
        sound = [text for text in texts if not isinstance(text, ChatTemplateError) and system.strip() in text]
        return list(commonprefix([self.encode(text, special=False) for text in sound]))

    def decode(self, tokens: Sequence[int], skip_special: bool = True) -> str:
        """Text of ids; `InputError` for ids that do not fit the library's 32 bits. Unknown ids
        decode to nothing."""
        if any(not 0 <= t < 1 << 32 for t in tokens):
            raise InputError("token id outside 0..2^32 − 1")
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=skip_special))

    def stream(self, skip_special: bool = True, before: Sequence[int] = ()) -> StreamDecoder:
        """A decoder for tokens that come one at a time, behind the tokens `before`."""
        return StreamDecoder(lambda tokens: self.decode(tokens, skip_special), before)


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _openings(system: Message) -> list[tuple[list[Message], bool]]:
    """What may follow a system message: the user, another one where the template takes it, or
    nothing."""
    another: Message = {"role": "system", "content": "a"}
    users = [([system, _user(text)], True) for text in _FIRST]
    return [*users, ([system, another, _user("a")], True), ([system], False)]
