"""Chat templates: rendered as transformers does (tests/reference/chat_templates.py made the
values), within bounds, and turn after turn in one session."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from cryptogen import errors
from cryptogen.tokens.chat import LARGEST_SOURCE, ChatTemplate, Message
from cryptogen.tokens.tokenizer import Tokenizer
from cryptogen.weights import load
from tiny import CHAT_TEMPLATE, tiny_llama, tokenizer_json, write_gguf

REFERENCE = Path(__file__).parents[1] / "reference" / "chat_templates.json"
FOUND: dict[str, Any] = json.loads(REFERENCE.read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in FOUND["cases"]}
HELLO: Message = {"role": "user", "content": "hello"}


def folder_with(folder: Path, template: object, **files: str) -> Path:
    """A tiny model with the reference's tokenizer and this chat template."""
    tiny_llama(folder)
    options = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>", "chat_template": template}
    (folder / "tokenizer.json").write_text(FOUND["tokenizer"])
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def tokenizer_with(source: str) -> Tokenizer:
    return Tokenizer.from_json(tokenizer_json()).with_chat(ChatTemplate(source, {}))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if isinstance(case["template"], str | list)])
def test_conversations_are_what_transformers_renders(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    tokenizer = load(folder_with(tmp_path / "m", case["template"])).tokenizer
    assert tokenizer is not None
    wanted = [of_chat for both in case["rendered"] for of_chat in both]
    if name == "named ones without a default":  # no template is better than one of them
        assert tokenizer.chat is None and all("no default" in w["error"] for w in wanted)
        return
    assert tokenizer.chat is not None
    asked = [(chat, opened) for chat in FOUND["chats"] for opened in (True, False)]
    for (chat, opened), text, want in zip(asked, tokenizer.chat.render_all(asked), wanted, strict=True):
        if "error" in want:
            assert isinstance(text, errors.ChatTemplateError)
            assert want["error"].split("\n")[0][:60].strip() in text.problem
            continue
        assert text == want["text"]
        assert tokenizer.encode(text, special=False) == want["ids"]  # no second begin-of-sequence token
        if opened:
            assert tokenizer.encode_chat(chat) == want["ids"]


def test_a_template_of_a_gguf_file_is_the_same(tmp_path: Path) -> None:
    folder = load(tiny_llama(tmp_path / "m", rms_norm_eps=1e-5))
    packed = load(write_gguf(folder, tmp_path / "m.gguf", tokenizer__ggml__unknown_token_id=0)).tokenizer
    assert packed is not None and packed.chat is not None
    assert packed.chat.source == CHAT_TEMPLATE
    assert packed.chat.special == {
        "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"
    }  # fmt: skip
    text = packed.chat.render([HELLO])
    assert text.endswith("Be brief.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n")


def test_where_a_folder_has_its_template(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def template(name: str, value: object, **files: str) -> ChatTemplate | None:
        tokenizer = load(folder_with(tmp_path / name, value, **files)).tokenizer
        assert tokenizer is not None
        return tokenizer.chat

    own = template("own", "in the options", chat_template__jinja="{{ bos_token }}of its own")
    assert own is not None and own.source == "{{ bos_token }}of its own" and own.special["eos_token"] == "</s>"
    assert template("none", None) is None and template("empty", "") is None
    assert not caplog.records
    for wrong in (5, ["a"], [{"name": "default"}], {"default": "a"}):
        assert template(f"wrong{len(caplog.records)}", wrong) is None
        assert "chat template: tokenizer_config.json: " in caplog.records[-1].getMessage()
    assert template("large", "x" * (LARGEST_SOURCE + 1)) is None
    assert f"at most {LARGEST_SOURCE} characters" in caplog.records[-1].getMessage()
    (tmp_path / "latin").mkdir()
    folder_with(tmp_path / "latin", None)
    (tmp_path / "latin" / "chat_template.jinja").write_bytes(b"caf\xe9")
    chosen = load(tmp_path / "latin").tokenizer
    assert chosen is not None and chosen.chat is None and "UTF-8" in caplog.records[-1].getMessage()


def test_special_tokens_come_from_an_older_file_too(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", "{{ bos_token }}|{{ pad_token }}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ bos_token }}|{{ pad_token }}"}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<s>"}, "pad_token": "</s>"}))
    tokenizer = load(folder).tokenizer
    assert tokenizer is not None and tokenizer.chat is not None
    assert tokenizer.chat.render([HELLO]) == "<s>|</s>"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ 'a' * 10**12 }}", "MemoryError"),
        ("{{ '%1000000000d' % 1 }}", "MemoryError"),
        ("{% for i in range(99999) %}{{ 'a' * 99 }}{% endfor %}", "at most 4194304 characters"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{{ dict.__class__.__mro__ }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ raise_exception('a\x1b[31mb\n' + 'c' * 10000) }}", "chat template: a [31mb c"),
    ],
)  # fmt: skip
def test_a_hostile_template_is_one_short_line(source: str, said: str) -> None:
    with pytest.raises(errors.ChatTemplateError) as raised:
        tokenizer_with(source).encode_chat([HELLO])
    line = str(raised.value)
    assert said in line and line.isprintable() and len(line) < 300


def test_a_template_without_an_end_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(errors.ChatTemplateError, match="more time than a template may"):
        tokenizer_with("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}").chat_head()
    assert time.monotonic() - started < 60


def test_messages_that_cannot_be() -> None:
    tokenizer = tokenizer_with(CHAT_TEMPLATE)
    with pytest.raises(errors.InputError, match="at least 1"):
        tokenizer.encode_chat([])
    for wrong in (
        {"role": "tool", "content": "x"},
        {"role": "user", "content": 5},
        {"role": "user", "content": "\ud800"},
    ):
        with pytest.raises(errors.InputError):
            tokenizer.encode_chat([wrong])  # type: ignore[list-item]
    with pytest.raises(errors.ChatTemplateError, match="has none"):
        tokenizer.with_chat(None).encode_chat([HELLO])


def test_documents_of_templates() -> None:
    template = ChatTemplate("é{{ bos_token }}", {"bos_token": "<s>"})
    assert ChatTemplate.from_json(template.to_json()) == template
    for wrong in (
        "", "[]", "{}", '{"source": "a"}', '{"source": 1, "special": {}}',
        '{"source": "a", "special": {"bos_token": 1}}', '{"source": "a", "special": {"other": "b"}}',
        '{"source": "a", "special": []}', "[" * 100000,
        json.dumps({"source": "a" * (LARGEST_SOURCE + 1), "special": {}}),
    ):  # fmt: skip
        with pytest.raises(errors.ChatTemplateError):
            ChatTemplate.from_json(wrong)


@pytest.mark.parametrize(
    ("name", "end", "head"),
    [
        ("chatml", "<|im_end|>", "<|im_start|>user\n"),
        ("chatml behind bos_token (Hermes 2 Theta)", "<|im_end|>", "<s><|im_start|>user\n"),
        ("headers, a date, contents trimmed (Llama 3.2)", "<|eot_id|>", None),
        ("roles have to alternate, no generation prompt (Mistral)", "</s>", "<s>[INST] "),
        ("the system message inside the first turn (Llama 2)", "</s>", "<s>[INST] "),
        ("other names of roles, no system message (Gemma)", "<end_of_turn>", "<s><start_of_turn>user\n"),
        ("else in the generation prompt (Phi-3)", "<|end|>", "<|user|>\n"),
        ("blocks on lines of their own (Zephyr)", "</s>", "<|user|>\n"),
    ],
)
def test_what_begins_a_conversation_and_what_ends_an_answer(
    name: str, end: str, head: str | None, tmp_path: Path
) -> None:
    model = load(folder_with(tmp_path / "m", CASES[name]["template"]))
    tokenizer = model.tokenizer
    assert tokenizer is not None
    assert tokenizer.chat_end() == tokenizer.token_id(end) in model.stop
    found = tokenizer.chat_head()
    if head is not None:
        assert tokenizer.decode(found, skip_special=False) == head
    for text in ("hello", "\n\nhello", "ß", "1"):
        assert tokenizer.encode_chat([{"role": "user", "content": text}])[: len(found)] == found


@pytest.mark.parametrize(
    "name",
    ["chatml", "first message split off, tools, white space control (Qwen2.5)",
     "headers, a date, contents trimmed (Llama 3.2)", "the system message inside the first turn (Llama 2)",
     "else in the generation prompt (Phi-3)", "blocks on lines of their own (Zephyr)"],
)  # fmt: skip
def test_a_conversation_behind_a_system_message_that_is_not_known(name: str, tmp_path: Path) -> None:
    """The server's rows and the client's are together those of the whole conversation."""
    tokenizer = load(folder_with(tmp_path / "m", CASES[name]["template"])).tokenizer
    assert tokenizer is not None
    rest: list[Message] = [HELLO, {"role": "assistant", "content": "Yes."}, HELLO]
    for system in ("You are a pirate.", "x", "1\n2"):
        message: Message = {"role": "system", "content": system}
        whole = tokenizer.encode_chat([message, *rest])
        assert [*tokenizer.chat_head(system), *tokenizer.encode_chat(rest, behind_system=True)] == whole


def test_a_template_without_system_messages_says_so(tmp_path: Path) -> None:
    for name, said in (
        ("other names of roles, no system message (Gemma)", "System role not supported"),
        ("documents and tools are none, others undefined", "it leaves system messages out"),
    ):
        tokenizer = load(folder_with(tmp_path / name[:5], CASES[name]["template"])).tokenizer
        assert tokenizer is not None and tokenizer.chat is not None
        with pytest.raises(errors.ChatTemplateError, match=said):
            tokenizer.chat.takes_system()


def test_a_malformed_template_is_a_warning_at_load(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    model = load(folder_with(tmp_path / "m", "{% for m in messages %}"))
    assert "chat template: Unexpected end of template" in caplog.text
    assert model.stop == {2} and model.tokenizer is not None
    assert model.tokenizer.encode("a")  # texts can be continued


# --- in a session

pytest.importorskip("cryptogen._core", reason="the Rust core is not built (make build)")

import cryptogen  # noqa: E402
from cryptogen.bench.shapes import quick_plan  # noqa: E402
from cryptogen.evaluate.fidelity import fidelity  # noqa: E402
from cryptogen.session.chat import Conversation  # noqa: E402
from served import serving  # noqa: E402

TRIMMED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ '' if m.role == 'assistant' else m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("source", "protocol"), [(CHAT_TEMPLATE, "preprocessed"), (TRIMMED, "preprocessed"), (TRIMMED, "recompute")]
)
def test_every_turn_is_what_the_template_writes(source: str, protocol: str, tmp_path: Path) -> None:
    """Also where it writes earlier answers in another way than they were given: rows that differ
    are dropped."""
    model = load(tiny_llama(tmp_path / "m"))
    assert model.tokenizer is not None
    tokenizer = model.tokenizer.with_chat(ChatTemplate(source, {}))
    model = dataclasses.replace(model, tokenizer=tokenizer)
    with serving(tmp_path, model=model, plan=quick_plan(model)) as served:
        with served.client(tmp_path / "client", protocol=protocol) as client:
            talk, text, answers = Conversation(client), [], []
            for turn in ("one", "two", "three") if protocol == "preprocessed" else ("1", "2"):
                before, cached = client.costs, client.length
                answer = [t.id for t in talk.say(turn, max_new_tokens=3 if protocol == "preprocessed" else 1)]
                said = answer[:-1] if answer[-1] in model.stop else answer
                chat: list[Message] = []
                for user, words in answers:
                    chat += [{"role": "user", "content": user}, {"role": "assistant", "content": words}]
                whole = tokenizer.encode_chat([*chat, {"role": "user", "content": turn}])
                if source == TRIMMED:  # no answer is written again: its rows go, and those behind it
                    text = whole
                    assert client.length == len(whole) + len(answer) - 1
                else:  # the answers' tokens stay as they were sampled, and nothing is computed twice
                    new = f"<|im_start|>user\n{turn}<|im_end|>\n<|im_start|>assistant\n"
                    behind = tokenizer.encode(f"<|im_end|>\n{new}", special=False)
                    text = [*text, *behind] if text else whole
                    if protocol == "preprocessed":
                        assert (client.costs - before).rows == client.length - max(cached, client.costs.known_rows)
                assert not fidelity(model, text, answer).violations
                text = [*text, *said]
                answers.append((turn, tokenizer.decode(said)))


def test_a_chat_without_a_template_says_so(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "m"))
    assert model.tokenizer is not None
    bare = dataclasses.replace(model, tokenizer=model.tokenizer.with_chat(None))
    with serving(tmp_path, model=bare, plan=quick_plan(model)) as served, served.client(tmp_path / "c") as client:
        assert client.tokenizer is not None
        with pytest.raises(errors.ChatTemplateError, match="the server's model has none, and a chat needs one"):
            Conversation(client)
        assert cryptogen.Token(5, "").id == 5
        assert list(client.generate("a", max_new_tokens=1))


def test_a_server_that_sends_another_document() -> None:
    from cryptogen.session.connect import _tokenizer

    sound = {"tokenizer": tokenizer_json().encode()}
    made = _tokenizer(sound | {"chat": ChatTemplate("x", {}).to_json().encode()})
    assert made is not None and made.chat == ChatTemplate("x", {})
    with pytest.raises(errors.ProtocolViolation, match="the server's chat template: a JSON object expected"):
        _tokenizer(sound | {"chat": b"{"})


def test_a_refused_turn_leaves_the_conversation(tmp_path: Path) -> None:
    refusing = "{% if messages[-1].content == 'no' %}{{ raise_exception('not that') }}{% endif %}" + CHAT_TEMPLATE
    model = load(tiny_llama(tmp_path / "m"))
    assert model.tokenizer is not None
    model = dataclasses.replace(model, tokenizer=model.tokenizer.with_chat(ChatTemplate(refusing, {})))
    with serving(tmp_path, model=model, plan=quick_plan(model)) as served, served.client(tmp_path / "c") as client:
        talk = Conversation(client)
        assert list(talk.say("one", max_new_tokens=1))
        with pytest.raises(errors.ChatTemplateError, match="not that"):
            talk.say("no", max_new_tokens=1)
        assert list(talk.say("two", max_new_tokens=1))
