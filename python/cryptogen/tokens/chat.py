"""How a conversation is written for a model: by the model's own chat template (Jinja), as
transformers renders it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from cryptogen.errors import ChatTemplateError, InputError

Role = Literal["system", "user", "assistant"]
LARGEST_SOURCE = 1 << 18  # characters of a template; published ones have up to 20 000
PATIENCE = 20.0  # seconds until a template is given up; `render.py` limits processor time to less
PLACEHOLDER = "PLACEHOLDER"  # for words that are not known: a template that trims leaves it whole
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_RENDER = Path(__file__).with_name("render.py")


class Message(TypedDict):
    role: Role
    content: str


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template and the names of the special tokens that it may use.

    Attributes:
        source: The template.
        special: `bos_token` and others of `SPECIAL` → the token's text.
    """

    source: str
    special: Mapping[str, str]

    def __post_init__(self) -> None:
        if len(self.source) > LARGEST_SOURCE:
            raise ChatTemplateError(f"at most {LARGEST_SOURCE} characters expected, it has {len(self.source)}")

    def render(self, messages: Sequence[Message], opened: bool = True) -> str:
        """The text of a conversation; `opened`: it ends in an open turn of the assistant's.

        Raises:
            InputError: No messages, an unknown role, or content that is not UTF-8 text.
            ChatTemplateError: The template is malformed, or refuses these messages.
        """
        (text,) = self.render_all([(messages, opened)])
        if isinstance(text, ChatTemplateError):
            raise text
        return text

    def render_all(self, conversations: Sequence[tuple[Sequence[Message], bool]]) -> list[str | ChatTemplateError]:
        """`render` of several conversations, each with its `opened`, at one time: of each the text
        or why there is none."""
        asked = [[_checked(messages), opened] for messages, opened in conversations]
        texts = _rendered({"source": self.source, "special": dict(self.special), "conversations": asked})
        return [text if kind == "text" else ChatTemplateError(text) for kind, text in texts]

    def takes_system(self) -> None:
        """`ChatTemplateError` if it refuses system messages, or leaves them out in silence."""
        system, user = Message(role="system", content=PLACEHOLDER), Message(role="user", content="a")
        if PLACEHOLDER not in self.render([system, user]):
            raise ChatTemplateError("it leaves system messages out")

    def to_json(self) -> str:
        """The document that a server sends."""
        return json.dumps({"source": self.source, "special": dict(self.special)})

    @staticmethod
    def from_json(text: str) -> ChatTemplate:
        """Inverse of `to_json`, for text from a peer. `ChatTemplateError`."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise ChatTemplateError("a JSON object expected") from None
        if not isinstance(value, dict) or set(value) != {"source", "special"}:
            raise ChatTemplateError("an object of source and special expected")
        source, special = value["source"], value["special"]
        named = isinstance(special, dict) and set(special) <= set(SPECIAL)
        if not isinstance(source, str) or not named or not all(isinstance(t, str) for t in special.values()):
            raise ChatTemplateError(f"source expected to be text, special some of {', '.join(SPECIAL)} with texts")
        return ChatTemplate(source, special)


def one_template(value: object, where: str) -> str | None:
    """The template that transformers takes of what a file has: a text, or of a list of named ones
    `default`. None if there is none. `ChatTemplateError`."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, list) and all(isinstance(v, dict) for v in value):
        named = {v.get("name"): v.get("template") for v in value}
        if isinstance(found := named.get("default"), str):
            return found
        raise ChatTemplateError(f"{where}: one named default expected, found {', '.join(map(str, named)) or 'none'}")
    raise ChatTemplateError(f"{where}: a text or a list of named texts expected, {type(value).__name__} found")


def _checked(messages: Sequence[Message]) -> list[dict[str, str]]:
    if not messages:
        raise InputError("no messages: at least 1 expected")
    for m in messages:
        if m["role"] not in get_args(Role):
            raise InputError(f"message role {m['role']!r}, expected one of {get_args(Role)}")
        if not isinstance(m["content"], str):
            raise InputError(f"message content of type {type(m['content']).__name__}, text expected")
        try:
            m["content"].encode()
        except UnicodeEncodeError as error:
            raise InputError(f"message: UTF-8 text expected, character {error.start + 1} is none") from None
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def _rendered(asked: dict[str, Any]) -> list[list[str]]:
    """What the renderer answers: see `render.py` for why it is another process, and its limits."""
    command = [sys.executable, "-P", str(_RENDER)]
    try:
        done = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise ChatTemplateError(f"it takes more time than a template may ({PATIENCE:.0f} s)") from None
    if done.returncode < 0:
        raise ChatTemplateError(f"it takes more time than a template may (signal {-done.returncode})")
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ChatTemplateError(f"the renderer failed: {said[:200]}")
    texts: list[list[str]] = json.loads(done.stdout)
    return texts
