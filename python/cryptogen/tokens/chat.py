"""The ChatML conversation format, which SmolLM2 and many instruction-tuned models are trained
on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from cryptogen.errors import InputError

START, END = "<|im_start|>", "<|im_end|>"
Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    role: Role
    content: str


@dataclass(frozen=True)
class ChatML:
    """`<|im_start|>role\\ncontent<|im_end|>\\n` per message, then an open assistant turn."""

    start_id: int
    end_id: int  # ends the assistant's turn
    default_system: str | None = None  # put first when a conversation brings no system message

    @classmethod
    def from_template(cls, template: str, start_id: int, end_id: int) -> ChatML:
        """Take the default system message out of a model's Jinja template; the rest of the format
        is fixed."""
        found = re.search(r"<\|im_start\|>system(?:\n|\\n)([^<{}]*?)<\|im_end\|>", template)
        return cls(start_id, end_id, found.group(1) if found else None)

    def system(self, content: str) -> str:
        """A system message."""
        return _turn("system", content)

    def render(self, messages: Sequence[Message], begins: bool = True) -> str:
        """The text to encode; `begins`: nothing stands before it, so the default system message
        may. `InputError` for no messages, an unknown role, or content that is not text."""
        if not messages:
            raise InputError("no messages: at least 1 expected")
        for m in messages:
            if m["role"] not in get_args(Role):
                raise InputError(f"message role {m['role']!r}, expected one of {get_args(Role)}")
        turns = [(m["role"], m["content"]) for m in messages]
        if begins and turns[0][0] != "system" and self.default_system is not None:
            turns.insert(0, ("system", self.default_system))
        return "".join(_turn(role, content) for role, content in turns) + f"{START}assistant\n"


def _turn(role: str, content: str) -> str:
    return f"{START}{role}\n{content}{END}\n"
