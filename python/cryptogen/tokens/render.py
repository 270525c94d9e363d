"""Renders chat templates, as a process of its own: `python render.py`, a JSON object on stdin,
another one on stdout. It is started by `chat.py` and imports nothing of this package.

A template is a program of the model's author, or of the server. So it runs in Jinja's sandbox, and
this process has nothing to give but the messages: no key, no material, no connection. Its memory,
time and output are limited by the kernel, because a template can ask for a lot in one operation
(`'a' * 10**12`, `10 ** 10**9`).

The environment is the one of transformers (`apply_chat_template`): its options, its `tojson`,
`raise_exception`, `strftime_now` and `{% generation %}`.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 512 << 20  # bytes of address space
SECONDS = 3  # of processor time
TEXT = 4 << 20  # characters of a rendering


class Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks what an assistant said, for training. It renders
    as what is inside."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class Dictionaries:
    """`dict(…)` without the class, whose attributes lead out of the sandbox."""

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        return dict(*values, **named)

    def fromkeys(self, *values: Any) -> dict[Any, Any]:
        return dict.fromkeys(*values)


def environment() -> ImmutableSandboxedEnvironment:
    """What a chat template may use."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _json  # Jinja's own one escapes HTML
    made.globals |= {"raise_exception": _raise, "strftime_now": _now, "dict": Dictionaries()}
    return made


def _json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: Any) -> None:
    raise jinja2.TemplateError(str(message))


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def render(source: str, special: Mapping[str, str], conversations: list[tuple[list[Any], bool]]) -> list[list[str]]:
    """Of each conversation (its messages, and whether the assistant's turn is to be opened)
    `["text", what it renders as]` or `["error", why it does not]`."""
    try:
        template = environment().from_string(source)
    except Exception as error:
        return [["error", _said(error)]] * len(conversations)
    done: list[list[str]] = []
    for messages, opened in conversations:
        try:
            text, size = [], 0
            for piece in template.generate(
                messages=messages, tools=None, documents=None, add_generation_prompt=opened, **special
            ):
                text.append(piece)
                size += len(piece)
                if size > TEXT:
                    raise ValueError(f"at most {TEXT} characters expected, more came")
            done.append(["text", "".join(text)])
        except Exception as error:  # whatever a template does, it is its own error
            done.append(["error", _said(error)])
    return done


def _said(error: Exception) -> str:
    """The error in one line. A template's author writes it: nothing in it reaches a terminal but
    letters."""
    line = f" at line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
    text = "".join(c if c.isprintable() else " " for c in str(error)[:1000])
    return f"{' '.join(text.split())[:200] or type(error).__name__}{line}"


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asked = json.load(sys.stdin)
    json.dump(render(asked["source"], asked["special"], asked["conversations"]), sys.stdout)


if __name__ == "__main__":
    main()
