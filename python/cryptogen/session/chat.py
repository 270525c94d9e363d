"""A conversation in one session: what the model's chat template has written already stays in the
cache, and is not computed again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cryptogen.errors import ChatTemplateError, InputError
from cryptogen.tokens.chat import Message
from cryptogen.tokens.tokenizer import Written

from .client import Client
from .rows import Token


class Conversation:
    """Turns of a conversation with an instruction-tuned model, written by its own chat template.

        chat = Conversation(client)
        for token in chat.say("What is the capital of France?", max_new_tokens=32):
            print(token.text, end="")

    Args:
        client: Whose server has the model.
        system: A system message that stands first. None: the template's own, if it has one.

    Raises:
        ChatTemplateError: The server's model has no chat template, or one that takes no system
            message. `say` raises it for turns that the template refuses.
    """

    def __init__(self, client: Client, system: str | None = None) -> None:
        tokenizer = client.tokenizer
        if tokenizer is None or tokenizer.chat is None:
            raise ChatTemplateError("the server's model has none, and a chat needs one; `generate` continues a text")
        if system is not None:
            tokenizer.chat.takes_system()
        self._client, self._tokenizer = client, tokenizer
        self._messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._written: Written | None = None  # the conversation up to the last answer
        self._answer: list[int] = []

    def say(self, text: str, **options: Any) -> Iterator[Token]:
        """The answer to one more message; `options` are those of `Client.generate`, `on_range`
        among them.

        The template writes the whole conversation anew, as the model expects it. Of the session
        stay the rows of all tokens up to the first that differs: all of them where it writes
        answers as they were given; some templates leave the reasoning out, for instance, or trim.

        After `NumericFailure` or `RangeExceeded` the conversation cannot go on (`InputError`):
        begin another one.
        """
        if not text.strip():
            raise InputError("the message is empty")
        answer = [] if self._written is None else self._said()
        messages = list(self._messages)
        if self._written is not None:
            messages.append({"role": "assistant", "content": self._tokenizer.decode(answer)})
        messages.append({"role": "user", "content": text})
        written = self._behind(answer, self._tokenizer.write_chat(messages, self._client.secret_rows > 0))
        kept = 0 if self._written is None else self._client.keep(written.tokens)
        tokens = self._client.generate(written.tokens[kept:], continue_session=kept > 0, **options)
        self._messages, self._written, self._answer = messages, written, []
        return self._noted(tokens, self._answer)

    def _behind(self, answer: list[int], written: Written) -> Written:
        """The same text with the tokens of the last answer as they were sampled, which need not be
        those that its text has, if the template writes it as it was."""
        if self._written is not None:
            said = self._written.text + self._tokenizer.decode(answer, skip_special=False)
            if written.text.startswith(said) and (rest := self._tokenizer.follows(written.text[len(said) :])):
                return Written(written.text, [*self._written.tokens, *answer, *rest])
        return written

    def _noted(self, tokens: Iterator[Token], answer: list[int]) -> Iterator[Token]:
        for token in tokens:
            answer.append(token.id)
            yield token

    def _said(self) -> list[int]:
        """The last answer, as far as it was read, without the token that ended it."""
        ends = self._client.stop_tokens
        return self._answer[:-1] if self._answer and self._answer[-1] in ends else self._answer
