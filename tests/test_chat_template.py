"""One adapted chat template for the families of models that rewriters start from."""

from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data_modules import templates
from data_modules.records import Messages
from train import chat_template
from train.chat_template import adapt_chat_template, bare_prompt, doubles_start, is_asked_for_captions

ASKED = (
    "Write this prompt in the form of the video model's training captions. Keep what it asks for. "
    "Answer with the caption only.\nPrompt: blue box falls"
)
FOREIGN: Messages = [{"role": "system", "content": "Extend it."}, {"role": "user", "content": "blue box falls"}]

QWEN = """\
{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nHelp.<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
LLAMA = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system, messages = messages[0]['content'], messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: 26 Jul 2024\\n\\n' + system + '<|eot_id|>' }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}
"""
GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{{- '<start_of_turn>' + ('user' if message['role'] == 'user' else 'model') + '\\n' }}
{{- message['content'] + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""
EXPECTED = {
    "qwen": (
        QWEN,
        f"<|im_start|>system\nHelp.<|im_end|>\n<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n",
    ),
    "llama": (
        LLAMA,
        "<|endoftext|><|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024\n\n<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{ASKED}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma": (
        GEMMA,
        f"<|endoftext|><start_of_turn>user\n{ASKED}<end_of_turn>\n<start_of_turn>model\n",
    ),
}


def saved(tokenizer: PreTrainedTokenizerFast, directory: Path, template: str | dict[str, str]) -> Path:
    tokenizer.save_pretrained(directory)
    loaded = AutoTokenizer.from_pretrained(directory)
    loaded.chat_template = template
    loaded.bos_token = "<|endoftext|>"
    loaded.save_pretrained(directory)
    return directory


def rendered(directory: Path, messages: Messages) -> str:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("family", EXPECTED)
def test_a_foreign_system_prompt_gives_way_to_the_trained_words(
    family: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    template, expected = EXPECTED[family]
    plain, adapted = (saved(tokenizer, tmp_path / name, template) for name in ("plain", "adapted"))
    adapt_chat_template(adapted)
    assert rendered(adapted, FOREIGN) == expected
    assert rendered(adapted, [FOREIGN[0], *templates.refactor("blue box falls")]) == expected
    for before, after in (
        ("user prompt: ", ""),
        ("user_prompt: ", ""),
        ('\nRefine the sentence: "', '" to contain subject description, action.\n'),
    ):
        asked = {"role": "user", "content": f"{before}blue box falls{after}"}
        assert rendered(adapted, [FOREIGN[0], asked]) == expected
    for own in (
        templates.refactor("blue box falls"),
        templates.refactor("blue box falls", "it must bounce"),
        templates.direct("blue box falls"),
        templates.merge("blue box falls", "on a hill"),
        [*templates.refactor("a"), {"role": "assistant", "content": "b"}, {"role": "user", "content": "shorter"}],
    ):
        assert rendered(adapted, own) == rendered(plain, own)


def test_adapting_again_changes_nothing(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    directory = saved(tokenizer, tmp_path, LLAMA)
    adapt_chat_template(directory)
    once = (directory / "chat_template.jinja").read_text()
    adapt_chat_template(directory)
    assert (directory / "chat_template.jinja").read_text() == once


def test_a_template_beside_the_default_is_kept(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    directory = saved(tokenizer, tmp_path, {"default": QWEN, "tool_use": LLAMA})
    adapt_chat_template(directory)
    assert AutoTokenizer.from_pretrained(directory).chat_template.keys() == {"default", "tool_use"}
    assert rendered(directory, FOREIGN) == EXPECTED["qwen"][1]


def test_a_template_that_cannot_be_adapted_is_refused(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "adapted", lambda template: template)
    with pytest.raises(
        ValueError, match=r"can't be adapted to programs with a system prompt: .*Extend prompts.*comes out"
    ):
        adapt_chat_template(saved(tokenizer, tmp_path, QWEN))


def test_only_the_trained_words_count_as_asking_for_captions() -> None:
    asked, ruled = templates.refactor("blue box falls"), templates.refactor("blue box falls", "it must bounce")
    assert is_asked_for_captions([asked, ruled])
    assert not is_asked_for_captions([asked, templates.direct("blue box falls")])
    assert not is_asked_for_captions([[FOREIGN[0], *asked]])
    assert [bare_prompt(prompt) for prompt in (asked, ruled)] == ["blue box falls"] * 2


def test_a_doubled_start_token_is_noticed(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    once = AutoTokenizer.from_pretrained(saved(tokenizer, tmp_path, LLAMA))
    assert not doubles_start(once)
    once.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", once.bos_token_id)]
    )
    assert doubles_start(once)
