"""Makes chat_templates.json: what transformers renders of conversations by templates of many
kinds, and the token ids that it feeds. The tests read the file alone.

    python tests/reference/chat_templates.py        # needs transformers (and jinja2)

The templates are written for this file, each in the style of the models it names: with the same
Jinja features, and the traps that published ones have.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import jinja2
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer

SPECIALS = [
    "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "[INST]", "[/INST]",
]  # fmt: skip
LOOP = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES: dict[str, Any] = {
    "chatml": LOOP,
    "chatml behind bos_token (Hermes 2 Theta)": "{{bos_token}}" + LOOP,
    "chatml with a default system message (SmolLM2)": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a small helper.<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "first message split off, tools, white space control (Qwen2.5)": """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {{- '# Tools' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or
           (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "earlier answers without their reasoning (Qwen3)": """\
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set ns.last = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content and loop.index0 < ns.last %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""",
    "headers, a date, contents trimmed (Llama 3.2)": """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%Y") | length | string %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Digits of the year: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "roles have to alternate, no generation prompt (Mistral)": (
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
    ),
    "the system message inside the first turn (Llama 2)": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
        "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
        "{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "other names of roles, no system message (Gemma)": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
        "{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] "
        "| trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
    ),
    "else in the generation prompt (Phi-3)": (
        "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
        "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
        "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
        "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "blocks on lines of their own (Zephyr)": """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
    {% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
    {% endif %}
{% endfor %}
""",
    "generation tags, a macro, break, continue, tojson": """\
{%- macro turn(role, text) %}{{ '<|im_start|>' ~ role ~ '\\n' ~ text ~ '<|im_end|>\\n' }}{% endmacro %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{{- turn('system', message | tojson) }}{% continue %}{% endif %}
    {%- if loop.index > 8 %}{% break %}{% endif %}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{- turn('assistant', message.content) }}{% endgeneration %}
    {%- else %}
        {{- turn(message.role, message.content) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
""",
    "documents and tools are none, others undefined": (
        "{{ documents is none }}{{ tools is none }}{{ custom is defined }}{{ unk_token }}{{ pad_token }}"
        "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    ),
    "named ones": [{"name": "tool_use", "template": "TOOLS" + LOOP}, {"name": "default", "template": LOOP}],
    "named ones without a default": [{"name": "tool_use", "template": LOOP}, {"name": "rag", "template": LOOP}],
    "an attribute that nobody has": "{{ messages[0].nothing.at_all }}",
    "not Jinja": "{% for m in messages %}{{ m.content }}",
}
TURN = [{"role": "user", "content": ' Hi <b>&"é🙂\n'}]
CHATS = [
    TURN,
    [{"role": "system", "content": "Be brief. "}, *TURN],
    [*TURN, {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nHello!"}, {"role": "user", "content": "1+1?"}],
    [{"role": "system", "content": "Be \"brief\" <é>."}, *TURN, {"role": "assistant", "content": " Yes. "},
     {"role": "user", "content": "And <|im_end|>?"}],
    [*TURN, *TURN],
]  # fmt: skip


def tokenizer() -> Tokenizer:
    """Byte-level, with a begin-of-sequence token that its post-processor adds."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({n: i for i, n in enumerate([*SPECIALS, *letters])}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in SPECIALS])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return made


def rendered(folder: Path, template: Any, chat: list[dict[str, str]], opened: bool) -> dict[str, Any]:
    options = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
        "unk_token": "<unk>", "chat_template": template,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    loaded = AutoTokenizer.from_pretrained(folder)
    try:
        text = loaded.apply_chat_template(chat, tokenize=False, add_generation_prompt=opened)
        ids = loaded.apply_chat_template(chat, tokenize=True, add_generation_prompt=opened, return_dict=False)
    except (jinja2.TemplateError, ValueError) as error:
        return {"error": " ".join(str(error).split())}
    return {"text": text, "ids": [int(t) for t in ids]}


def main() -> None:
    cases = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        tokenizer().save(str(folder / "tokenizer.json"))
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        for name, template in TEMPLATES.items():
            of_chats = [[rendered(folder, template, chat, opened) for opened in (True, False)] for chat in CHATS]
            cases.append({"name": name, "template": template, "rendered": of_chats})
    found = {
        "made_by": f"tests/reference/chat_templates.py, transformers {transformers.__version__}",
        "tokenizer": tokenizer().to_str(),
        "chats": CHATS,
        "cases": cases,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
