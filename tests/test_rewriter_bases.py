"""Language models that rewriters start from: networks of their classes, chat templates and tokens of their kind."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from collect.backends.transformers_lm import TransformersLM
from data_modules import PreferenceDataModule, SFTDataModule, templates
from data_modules.records import Choice, Message, Preference, Prompt, Rewrite, content_id, write_records
from models import DPOModule, SFTModule
from models.lora import LoRA
from train.cli import main

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nHelp well.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n{{ system }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set before = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set before = '' %}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ before if loop.first else '' }}{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@dataclass(frozen=True)
class Base:
    """What is particular to a kind of model."""

    network: Any
    config: Any
    template: str
    bos: str | None
    eos: str
    pad: str
    marks: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


BASES = {
    "qwen2.5": Base(Qwen2ForCausalLM, Qwen2Config, CHATML, None, "<|im_end|>", "<|endoftext|>", ("<|im_start|>",)),
    "qwen3": Base(
        Qwen3ForCausalLM,
        Qwen3Config,
        QWEN3,
        None,
        "<|im_end|>",
        "<|endoftext|>",
        ("<|im_start|>",),
        {"head_dim": 8},
    ),
    "llama-3.1": Base(
        LlamaForCausalLM,
        LlamaConfig,
        LLAMA,
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|finetune_right_pad_id|>",
        ("<|start_header_id|>", "<|end_header_id|>"),
    ),
    "mistral": Base(MistralForCausalLM, MistralConfig, MISTRAL, "<s>", "</s>", "<unk>", ("[INST]", "[/INST]")),
    "gemma-3": Base(
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        GEMMA,
        "<bos>",
        "<end_of_turn>",
        "<pad>",
        ("<start_of_turn>",),
        {"head_dim": 8, "sliding_window": 512, "query_pre_attn_scalar": 8},
    ),
    "smollm2": Base(LlamaForCausalLM, LlamaConfig, CHATML, "<|im_start|>", "<|im_end|>", "<|im_end|>"),
}
PROMPTS = ["a red ball", "two blue boxes at night", "a cone", "a green cup falls from a table"]


def completion(prompt: str) -> list[Message]:
    return [Message(role="assistant", content=f"{prompt}, slowly. The light is warm.")]


def tiny_tokenizer(base: Base) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = dict.fromkeys(token for token in (base.bos, base.eos, base.pad, *base.marks) if token)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([templates.refactor(prompt)[0]["content"] for prompt in PROMPTS], trainer)
    tokens = {"bos_token": base.bos, "eos_token": base.eos, "pad_token": base.pad}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=base.template, **tokens)


@pytest.fixture(scope="module", params=BASES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network and tokenizer of one kind."""
    torch.manual_seed(0)
    folder, kind = tmp_path_factory.mktemp(request.param), BASES[request.param]
    tokenizer = tiny_tokenizer(kind)
    config = kind.config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **kind.settings,
    )
    kind.network(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


RECORDS: dict[str, Any] = {
    "sft": [Rewrite(content_id(text), templates.refactor(text), completion(text)) for text in PROMPTS],
    "preference": [
        Preference(
            content_id(text),
            templates.refactor(text),
            completion(text),
            [Message(role="assistant", content=text)],
            0.5,
            "video",
        )
        for text in PROMPTS
    ],
    "choices": [
        Choice(
            content_id(text),
            content_id(text),
            templates.choose(Prompt("0", text), text, f"{text}, slowly"),
            "B",
            {"a": 0.0, "b": 1.0},
        )
        for text in PROMPTS
    ],
}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("records")
    for name, rows in RECORDS.items():
        for split in ("train", "val"):
            write_records(root / name / f"{split}.jsonl", rows)
    return root


def test_what_is_trained_is_what_is_asked_and_packing_changes_nothing(base: Path, records: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    batches = []
    for packing in (True, False):
        data = SFTDataModule(pretrained=str(base), root=records / "sft", packing=packing)
        data.setup("fit")
        for record, example in zip(RECORDS["sft"], data.examples["train"], strict=True):
            ids = tokenizer(data.render(record.prompt), add_special_tokens=False).input_ids
            assert example["input_ids"][: len(ids)] == ids
            assert example["completion_mask"].index(1) == len(ids)
            learned = tokenizer.decode(example["input_ids"][len(ids) :], skip_special_tokens=True)
            # A template that thinks writes that it did not, before an answer without reasoning.
            assert learned.strip().removeprefix("<think>\n\n</think>\n\n") == record.completion[0]["content"]
            assert tokenizer.eos_token_id in example["input_ids"][len(ids) :]
        batches.append(data.collate(data.examples["train"]))
    module = SFTModule(pretrained=str(base))
    module.configure_model()
    packed, alone = (module.eval().score(batch)[0].detach().sort().values for batch in batches)
    assert batches[0]["input_ids"].shape[0] < batches[1]["input_ids"].shape[0]
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)


def test_both_answers_of_a_pair_are_scored_as_each_would_be_alone(base: Path, records: Path) -> None:
    data = PreferenceDataModule(pretrained=str(base), root=records / "preference")
    data.setup("fit")
    module = DPOModule(pretrained=str(base), lora=LoRA(r=2, alpha=4, dropout=0.0))
    module.configure_model()
    module.eval()
    with torch.no_grad():
        shared = module.pair_log_probs(data.collate(data.examples["train"]))
        for index, record in enumerate(RECORDS["preference"]):
            for answer, together in zip((record.chosen, record.rejected), shared, strict=True):
                prompt, completed = data.tokenise(record.id, record.prompt, answer)
                ids = torch.tensor([[*prompt, *completed]])
                log_probs = module.network(input_ids=ids).logits[0, :-1].log_softmax(-1)
                alone = log_probs.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :].sum()
                torch.testing.assert_close(together[index], alone, rtol=1e-4, atol=1e-3)


def fit_and_export(base: Path, root: Path, module: str, data: str, folder: Path) -> Path:
    """Train two steps of an objective through the command line, and export."""
    config = {
        "trainer": {
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "max_steps": 2,
            "log_every_n_steps": 1,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger"},
        },
        "model": {
            "class_path": module,
            "init_args": {"pretrained": str(base), "lora": {"r": 2, "alpha": 4, "dropout": 0.0}},
        },
        "data": {"class_path": data, "init_args": {"root": str(folder), "batch_size": 2}},
        "checkpoint": {"monitor": None},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    main(["fit", f"--config={root / 'config.yaml'}"])
    checkpoint = root / "checkpoints/last.ckpt"
    main(["export", f"--config={root / 'config.yaml'}", f"--ckpt_path={checkpoint}", f"--output_dir={root / 'hf'}"])
    return root / "hf"


def test_a_rewriter_of_every_kind_answers_programs_as_it_answers_this_one(
    base: Path, records: Path, tmp_path: Path
) -> None:
    exported = fit_and_export(base, tmp_path, "models.SFTModule", "data_modules.SFTDataModule", records / "sft")
    language_model = TransformersLM(str(exported), max_new_tokens=24)
    # So little trained, it never ends; what was cut is asked for again with twice the room.
    (expected,) = language_model.complete([templates.refactor(PROMPTS[1])], seed=0)
    # What Wan, LTX-Video and LTX-2.5 send; the token of the start that some tokenizers add is added by none of these.
    model, tokenizer = AutoModelForCausalLM.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    for before in ("", "user_prompt: ", "user prompt: "):
        turns = [{"role": "system", "content": "Be vivid."}, {"role": "user", "content": before + PROMPTS[1]}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer([text], return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=48)[0, inputs.input_ids.shape[1] :]
        assert tokenizer.decode(written, skip_special_tokens=True).strip() == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "data", "folder"),
    [
        ("models.DPOModule", "data_modules.PreferenceDataModule", "preference"),
        ("models.DiscriminatorModule", "data_modules.DiscriminatorDataModule", "choices"),
    ],
)
def test_the_other_objectives_train_and_export_every_kind(
    base: Path, records: Path, tmp_path: Path, module: str, data: str, folder: str
) -> None:
    exported = fit_and_export(base, tmp_path, module, data, records / folder)
    assert AutoModelForCausalLM.from_pretrained(exported).config.vocab_size == len(AutoTokenizer.from_pretrained(base))
