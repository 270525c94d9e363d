"""A conversation in one session: every turn continues from the cache, nothing is computed twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cryptogen.errors import InputError
from cryptogen.tokens.chat import END, START, Message

from .client import Client
from .rows import Token


class Conversation:
    """Turns of a ChatML conversation with an instruction-tuned model.

        chat = Conversation(client)
        for token in chat.say("What is the capital of France?", max_new_tokens=32):
            print(token.text, end="")

    `InputError` if the model has no chat format.
    """

    def __init__(self, client: Client, system: str | None = None) -> None:
        tokenizer = client.tokenizer
        if tokenizer is None or tokenizer.chat is None:
            raise InputError("the server's model has no chat format that is known here (ChatML)")
        self._client, self._tokenizer, self._format, self._system = client, tokenizer, tokenizer.chat, system
        self._open = False  # whether the last answer lacks its end token
        self._turns = 0

    def say(self, text: str, **options: Any) -> Iterator[Token]:
        """The answer to one more message; `options` are those of `Client.generate`, `on_range`
        among them.

        After `NumericFailure` or `RangeExceeded` the conversation cannot go on (`InputError`):
        begin another one.
        """
        tokens = self._client.generate(
            self._tokens(text), stop=[self._format.end_id], continue_session=self._turns > 0, **options
        )
        return self._answer(tokens)

    def _answer(self, tokens: Iterator[Token]) -> Iterator[Token]:
        self._turns += 1
        self._open = True
        for token in tokens:
            self._open = token.id != self._format.end_id
            yield token

    def _tokens(self, text: str) -> list[int]:
        if not text.strip():
            raise InputError("the message is empty")
        if self._turns == 0:
            messages: list[Message] = [] if self._system is None else [{"role": "system", "content": self._system}]
            messages = [*messages, {"role": "user", "content": text}]
            return self._tokenizer.encode_chat(messages, begins=self._client.secret_rows == 0)
        end = END if self._open else ""
        return self._tokenizer.encode(f"{end}\n{START}user\n{text}{END}\n{START}assistant\n", special=False)
