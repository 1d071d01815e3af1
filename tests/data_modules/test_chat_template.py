"""Templates of models that reason: what is trained is the answer alone, and an export asks as it was trained."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data_modules import PreferenceDataModule, SFTDataModule
from train.cli import main

TURNS = "{%- for m in messages %}{%- if m.role == 'user' %}{{ '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}"
# As the families write them, cut to what concerns reasoning.
QWEN3 = f"""{TURNS}
{{%- else %}}{{{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + m.content + '<|im_end|>\\n' }}}}{{%- endif %}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}
    {{{{- '<|im_start|>assistant\\n' }}}}
    {{%- if enable_thinking is defined and enable_thinking is false %}}
        {{{{- '<think>\\n\\n</think>\\n\\n' }}}}
    {{%- endif %}}
{{%- endif %}}
"""
QWEN35 = f"""{TURNS}
{{%- else %}}{{{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + m.content + '<|im_end|>\\n' }}}}{{%- endif %}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}
    {{{{- '<|im_start|>assistant\\n' }}}}
    {{%- if enable_thinking is defined and enable_thinking is false %}}
        {{{{- '<think>\\n\\n</think>\\n\\n' }}}}
    {{%- else %}}
        {{{{- '<think>\\n' }}}}
    {{%- endif %}}
{{%- endif %}}"""
R1 = f"""{TURNS}
{{%- else %}}{{{{ '<|im_start|>assistant\\n' + m.content.split('</think>')[-1] + '<|im_end|>\\n' }}}}{{%- endif %}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}{{{{ '<|im_start|>assistant\\n<think>\\n' }}}}{{%- endif %}}"""
HARMONY = f"""{TURNS}
{{%- else %}}{{{{ '<|im_start|>assistant<|channel|>final<|message|>' + m.content + '<|im_end|>' }}}}{{%- endif %}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}{{{{ '<|im_start|>assistant' }}}}{{%- endif %}}"""
CLOSED = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
FAMILIES = {
    "qwen3": (QWEN3, {}, CLOSED),
    "qwen3, switched off": (QWEN3, {"enable_thinking": False}, CLOSED),
    "qwen3.5": (QWEN35, {}, CLOSED),
    "qwen3.5, switched off": (QWEN35, {"enable_thinking": False}, CLOSED),
    "qwen3.5, switched on": (QWEN35, {"enable_thinking": True}, CLOSED),
    "deepseek r1": (R1, {}, CLOSED),
    "gpt-oss": (HARMONY, {}, "<|im_start|>assistant<|channel|>final<|message|>"),
}


def saved(tokenizer: PreTrainedTokenizerFast, directory: Path, template: str | dict[str, str]) -> Path:
    tokenizer.save_pretrained(directory)
    loaded = AutoTokenizer.from_pretrained(directory)
    loaded.chat_template = template
    loaded.save_pretrained(directory)
    return directory


def loaded(base: Path, root: Path, variables: dict) -> SFTDataModule:
    data = SFTDataModule(pretrained=str(base), root=root, max_length=256, chat_template_kwargs=variables)
    data.setup("fit")
    return data


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_alone_is_learned(
    family: str, tokenizer: PreTrainedTokenizerFast, rewrites: Path, tmp_path: Path
) -> None:
    template, variables, opening = FAMILIES[family]
    data = loaded(saved(tokenizer, tmp_path, template), rewrites, variables)
    for record, example in zip(data.records["train"], data.examples["train"], strict=True):
        begin = example["completion_mask"].index(1)
        asked, answer = (
            data.tokenizer.decode(ids) for ids in (example["input_ids"][:begin], example["input_ids"][begin:])
        )
        assert asked.endswith(record.prompt[-1]["content"] + "<|im_end|>\n" + opening)
        assert answer.rstrip("\n") == record.completion[0]["content"] + "<|im_end|>"


@pytest.mark.parametrize("family", ["qwen3", "qwen3.5", "deepseek r1"])
def test_both_answers_of_a_pair_begin_alike(
    family: str, tokenizer: PreTrainedTokenizerFast, preferences: Path, tmp_path: Path
) -> None:
    template, variables, _ = FAMILIES[family]
    base = saved(tokenizer, tmp_path, template)
    data = PreferenceDataModule(pretrained=str(base), root=preferences, max_length=256, chat_template_kwargs=variables)
    data.setup("fit")
    assert all(
        "think" not in data.tokenizer.decode(e["input_ids"][e["lengths"][0] + 1 :]) for e in data.examples["val"]
    )


@pytest.mark.parametrize("family", ["qwen3", "qwen3.5, switched off", "deepseek r1"])
def test_an_export_asks_as_it_was_trained(
    family: str,
    tiny_lm: Path,
    tokenizer: PreTrainedTokenizerFast,
    sft_config: Callable[[str], Path],
    rewrites: Path,
    tmp_path: Path,
) -> None:
    template, variables, opening = FAMILIES[family]
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_lm.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    saved(tokenizer, base, template)
    asking = [f"--data.chat_template_kwargs.{name}={str(value).lower()}" for name, value in variables.items()]
    arguments = ["export", f"--config={sft_config('run')}", *asking]
    main([*arguments, f"--model.pretrained={base}", f"--output_dir={tmp_path / 'hf'}"])
    exported = AutoTokenizer.from_pretrained(tmp_path / "hf")
    data = loaded(base, rewrites, variables)
    for record, example in zip(data.records["train"][:3], data.examples["train"][:3], strict=True):
        begin = example["completion_mask"].index(1)
        for said in ({}, {"enable_thinking": True}):  # whatever a program says
            text = exported.apply_chat_template(record.prompt, tokenize=False, add_generation_prompt=True, **said)
            assert text.endswith(opening)
            if variables or not said:
                assert exported(text, add_special_tokens=False).input_ids == example["input_ids"][:begin]
    # Trained further, it stays as it is.
    main([*arguments, f"--model.pretrained={tmp_path / 'hf'}", f"--output_dir={tmp_path / 'again'}"])
    assert AutoTokenizer.from_pretrained(tmp_path / "again").chat_template == exported.chat_template


def test_plain_templates_are_left_alone(tokenizer: PreTrainedTokenizerFast, rewrites: Path, tmp_path: Path) -> None:
    base = saved(tokenizer, tmp_path, tokenizer.chat_template)
    assert loaded(base, rewrites, {}).tokenizer.chat_template == tokenizer.chat_template


def test_several_templates_are_each_adapted(tokenizer: PreTrainedTokenizerFast, rewrites: Path, tmp_path: Path) -> None:
    base = saved(tokenizer, tmp_path, {"default": QWEN35, "tool_use": tokenizer.chat_template})
    templates = loaded(base, rewrites, {"enable_thinking": False}).tokenizer.chat_template
    assert templates["tool_use"].endswith(tokenizer.chat_template)
    assert templates["default"].startswith("{% set enable_thinking = False %}")


def test_a_variable_that_nothing_reads_is_refused(
    tokenizer: PreTrainedTokenizerFast, rewrites: Path, tmp_path: Path
) -> None:
    base = saved(tokenizer, tmp_path, QWEN3)
    with pytest.raises(ValueError, match=r"reads no variable enable_thinkin; take it out of data.init_args.chat_templ"):
        loaded(base, rewrites, {"enable_thinkin": False})
