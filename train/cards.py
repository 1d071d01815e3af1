"""The model card of an export."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, metadata_load
from transformers import AutoConfig, AutoTokenizer

from data_modules import JSONLDataModule
from data_modules.records import (
    Choice,
    Evaluation,
    Funnel,
    Message,
    Messages,
    Preference,
    Rewrite,
    Rewriting,
    read_records,
)
from data_modules.schema import check, parse_json, read_json
from data_modules.text import lines_of, read_text, shown
from models import LoRAModule
from train.callbacks import LogConfig, Provenance, Validation, ValidationScores, sha256
from train.chat_template import bare_prompt, doubles_start, is_asked_for_captions

CARD = """---
{metadata}
---

# {title}

{form} of `{base}`, {origin}
{elsewhere}
## Use

```python
messages = {messages}
```

{asking}

Transformers:

```python
{transformers}
```

PEFT{peft_use}:

```python
{peft}
```

vLLM:

```python
{vllm}
```

As an OpenAI-compatible endpoint: `transformers serve {served}`{serve_more}. Decode greedily; {greedy}.
{programs}
A training prompt, and the answer it was trained on:

{example}
{sections}"""

ELSEWHERE = """
`adapter_config.json` names the base by its path on the machine that exported it{known}. On another machine, copy that
folder too and load the adapters on it, with `BASE` as its path there:
`PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), "{name}")`. An export with `--merge true` needs
no base.
"""

PROGRAMS = """
## In a video model's own prompt extension

The chat template treats a conversation that opens with a system turn as another program's: it drops the system turn
and adds the training instruction to the user's turn. Programs that send their own system prompt and the bare prompt
therefore get the rewrite that the whole training prompt gets:

- Wan2.1 and Wan2.2 (text to video; for images they load a vision-language model, which this is not):
  `python generate.py ... --use_prompt_extend --prompt_extend_method local_qwen --prompt_extend_model {output_dir}`.
  The rewrite comes in the language and form of the captions it was trained on, whatever `--prompt_extend_target_lang`
  asks for, and does not depend on Wan's seed. Wan's own instructions, among them those that replace some contents,
  are left out with its system prompt.
- HunyuanVideo-1.5: serve it, `transformers serve {output_dir} --port 8000`, and start
  `T2V_REWRITE_BASE_URL=http://127.0.0.1:8000/v1 T2V_REWRITE_MODEL_NAME={output_dir} python generate.py --rewrite true
  ...`. It asks with temperature 0.1, so a rewrite may vary a little.
- LTX-Video: `prompt_enhancer_llm_model_name_or_path: {output_dir}` in the YAML file of the pipeline. It enhances
  prompts of fewer words than `prompt_enhancement_words_threshold`. The `user_prompt: ` it puts before them is taken
  off.
{gemma}- Open-Sora-Plan: `--refine_caption --caption_refiner {output_dir}`. The instruction it writes around the prompt
  is taken off.
- A ComfyUI node that loads a local chat model from transformers files: set this folder as the model, any system prompt,
  the user's prompt as the user's message, and switch sampling off. A node with a single text field, or with its own
  chat template, needs the whole training prompt:

{words}
{gguf}{doubled}"""

GEMMA = """\
- LTX-2.5, whose enhancer must be a Gemma: with the `processor` of the base,
  `pipe.prompt_enhancer = AutoModelForImageTextToText.from_pretrained("{output_dir}")`,
  `pipe.processor = AutoProcessor.from_pretrained(BASE)`, `pipe.processor.tokenizer =
  AutoTokenizer.from_pretrained("{output_dir}")`, and `enable_prompt_enhancement=True` in the call. The `user prompt: `
  it puts before the prompt is taken off. What it gets may differ from the text that other programs get: it forbids
  runs of words to be repeated.
"""

GGUF = """
For llama.cpp and what is built on it, its own script makes one file of the merged form; `--jinja` uses this chat
template:

```sh
python llama.cpp/convert_hf_to_gguf.py {output_dir} --outfile rewriter.gguf
llama-server -m rewriter.gguf --jinja
```
"""

DOUBLED = """
The tokenizer adds a start token to rendered text that already has one, unless it is called with
`add_special_tokens=False`. Wan2.1 does not pass that, so its prompts start with two.
"""

# What `python -m collect rewrite` calls the rewrites of the model that is trained.
REFACTORED = "refactored"

# Kinds of model that LTX-2.5 takes as its enhancer.
LTX_ENHANCERS = ("gemma3", "gemma4")

# Ranks that vLLM accepts as max_lora_rank.
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class ModelCard:
    """What an export says about itself. Everything is read and checked before the export begins.

    Args:
        model: what was trained.
        data: what it was trained on.
        merge: whether adapters are folded into the weights.
        checkpoint: the Lightning checkpoint whose weights are exported; ``None`` for the initial ones.
        evaluation: ``summary.json`` of ``python -m collect evaluate``.
        rewrites: what ``python -m collect rewrite --format jsonl`` wrote with this rewriter as the refactorer, for the
            share of its answers that pass the intent gate.

    Raises:
        FileNotFoundError: if the training records, the evaluation or the rewrites are gone.
        ValueError: if the records are not those that the checkpoint was trained on, the evaluation is no summary, or
            the rewrites hold no answer of a refactorer.
    """

    def __init__(
        self,
        model: LoRAModule,
        data: JSONLDataModule,
        merge: bool,
        checkpoint: dict[str, Any] | None,
        evaluation: Path | None,
        rewrites: Path | None,
    ) -> None:
        self.model = model
        self.data = data
        self.adapter = model.lora is not None and not merge
        self.checkpoint = checkpoint
        self.records = read_records(data.path("train"), data.record)
        self.asked_for_captions = is_asked_for_captions([record.prompt for record in self.records])
        callbacks = {} if checkpoint is None else checkpoint["callbacks"]
        told = f"what {LogConfig.__qualname__} and {ValidationScores.__qualname__} left in the checkpoint"
        remedy = "give a checkpoint that `python -m train fit` wrote."
        provenance = callbacks.get(LogConfig.__qualname__)
        validation = callbacks.get(ValidationScores.__qualname__, {"step": 0, "scores": {}})
        self.provenance = None if not provenance else check(provenance, Provenance, told, remedy)
        self.validation = check(validation, Validation, told, remedy)
        self.evaluation = (
            None if evaluation is None else read_json(evaluation, Evaluation, "`python -m collect evaluate`")
        )
        self.gate = None if rewrites is None else _read_gate(rewrites)
        for split, trained in (self.provenance["sha256"] if self.provenance else {}).items():
            if sha256(data.path(split)) != trained:
                raise ValueError(
                    f"{data.path(split)} is not what the checkpoint was trained on (its sha256 was {trained[:16]}...), "
                    "so the model card would describe other records; point data.init_args.root at the records it was "
                    "trained on, or train again."
                )

    def write(self, directory: Path, name: str) -> None:
        """Write ``README.md``.

        Args:
            directory: where the export lies now.
            name: what it will be loaded by: its directory in the end, or its repository on the Hub.
        """
        card = CARD.format(
            metadata=self._metadata(),
            title="Judge of prompt rewrites"
            if self.data.record is Choice
            else "Prompt rewriter for a text-to-video model",
            form="LoRA adapters on top" if self.adapter else "A fine-tuned copy",
            base=self.model.base if self.adapter else self.model.pretrained,
            origin=self._origin(),
            elsewhere=self._elsewhere(name),
            messages=json.dumps(self._messages(), ensure_ascii=False, indent=4),
            asking=self._asking(),
            served=name,
            serve_more="" if self.adapter else f" or `vllm serve {name}`",
            greedy=(
                "the adapters use their base's generation settings, so pass `do_sample=False`"
                if self.adapter
                else "`generation_config.json` makes that the default"
            ),
            programs=self._programs(directory, name),
            example=_quoted([*self.records[0].prompt, *_answer(self.records[0])]),
            sections="\n".join([self._data(), self._scores(), self._provenance()]),
            **self._loading(name),
        )
        (directory / "README.md").write_text(card, encoding="utf-8")

    def _metadata(self) -> str:
        base = _hub_id(self.model.pretrained)
        data = ModelCardData(
            library_name="peft" if self.adapter else "transformers",
            pipeline_tag="text-generation",
            base_model=base,
            base_model_relation=None if base is None else "adapter" if self.adapter else "finetune",
            tags=["text-to-video", "prompt-rewriting", *(["lora"] if self.adapter else [])],
        )
        return str(data.to_yaml())

    def _origin(self) -> str:
        if self.checkpoint is None:
            return "with its initial weights: nothing was trained."
        steps = self.checkpoint["global_step"]
        return (
            f"trained by `{type(self.model).__name__}` on {len(self.records)} records; weights after {steps} optimiser "
            "steps."
        )

    def _elsewhere(self, name: str) -> str:
        """What adapters whose base is a folder need on another machine."""
        if not self.adapter or not Path(self.model.pretrained).is_dir():
            return ""
        origin = _hub_id(self.model.pretrained)
        return ELSEWHERE.format(known="" if origin is None else f", which was derived from `{origin}`", name=name)

    def _messages(self) -> Messages:
        prompt: Messages = self.records[0].prompt
        if not self.asked_for_captions:
            return prompt
        return [{"role": "system", "content": ""}, {"role": "user", "content": bare_prompt(prompt)}]

    def _asking(self) -> str:
        if self.asked_for_captions:
            return "The system turn, empty or not, makes the chat template add the training instruction (see below)."
        return "Use the training prompt as it is; replace only what the user wrote."

    def _programs(self, directory: Path, name: str) -> str:
        if not self.asked_for_captions:
            return ""
        doubled = DOUBLED if doubles_start(AutoTokenizer.from_pretrained(directory)) else ""
        kind = AutoConfig.from_pretrained(self.model.pretrained).model_type
        return PROGRAMS.format(
            output_dir=name,
            words=_quoted(self.records[0].prompt),
            gemma=GEMMA.format(output_dir=name) if kind in LTX_ENHANCERS else "",
            gguf="" if self.adapter else GGUF.format(output_dir=name),
            doubled=doubled,
        )

    def _loading(self, name: str) -> dict[str, str]:
        """Three lines each for transformers, PEFT and vLLM."""
        ask = "messages, max_new_tokens=256, do_sample=False, return_full_text=False"
        tokenizer = f', tokenizer="{name}"' if self.adapter else ""
        sampling = "SamplingParams(temperature=0, max_tokens=256)"
        lines = {
            "transformers": [
                "from transformers import pipeline",
                f'rewriter = pipeline("text-generation", "{name}"{tokenizer})',
                f'print(rewriter({ask})[0]["generated_text"])',
            ],
            "peft_use": "" if self.adapter else ", to tune it further",
            "peft": [
                "from peft import LoraConfig, get_peft_model",
                "from transformers import AutoModelForCausalLM",
                f'model = get_peft_model(AutoModelForCausalLM.from_pretrained("{name}"), '
                'LoraConfig(task_type="CAUSAL_LM"))',
            ],
            "vllm": [
                "from vllm import LLM, SamplingParams",
                f'rewriter = LLM("{name}")',
                f"print(rewriter.chat(messages, {sampling})[0].outputs[0].text)",
            ],
        }
        if self.adapter:
            assert self.model.lora is not None
            rank = next((rank for rank in VLLM_RANKS if rank >= self.model.lora.r), self.model.lora.r)
            lines["peft"] = [
                "from peft import AutoPeftModelForCausalLM",
                f'model = AutoPeftModelForCausalLM.from_pretrained("{name}")',
                "model = model.merge_and_unload()  # optional: merge them into the base",
            ]
            lines["vllm"] = [
                "from vllm import LLM, SamplingParams; from vllm.lora.request import LoRARequest",
                f'rewriter = LLM("{self.model.base}", tokenizer="{name}", enable_lora=True, max_lora_rank={rank})',
                f'print(rewriter.chat(messages, {sampling}, lora_request=LoRARequest("rewriter", 1, "{name}"))'
                "[0].outputs[0].text)",
            ]
        return {name: text if isinstance(text, str) else "\n".join(text) for name, text in lines.items()}

    def _data(self) -> str:
        if not self.provenance:
            return ""
        rows = [
            (split, number, _code(self.data.path(split)), _code(self.provenance["sha256"][split]))
            for split, number in self.provenance["records"].items()
            if split in self.provenance["sha256"]
        ]
        if not rows:
            return ""
        text = "\n## Data\n\n" + _table(("split", "records", "file", "sha256"), rows)
        mined = self.data.root.parent / "funnel.json"  # beside the folders of records, named after them
        made_by = "`python -m collect mine`"
        funnel = read_json(mined, Funnel, made_by)["funnel"].get(self.data.root.name) if mined.is_file() else None
        if funnel:
            steps = [(step.replace("_", " "), number) for step, number in funnel.items()]
            text += f"\nMined, {_code(mined)}:\n\n" + _table(("step", "left"), steps)
        return text

    def _scores(self) -> str:
        text = ""
        if self.validation["scores"]:
            rows = [(name, f"{value:.4g}") for name, value in self.validation["scores"].items()]
            text += f"\nValidation at step {self.validation['step']}:\n\n" + _table(("metric", "value"), rows)
        if self.evaluation is not None:
            metric, methods = self.evaluation["metric"], self.evaluation["methods"]
            names = list(dict.fromkeys(name for row in methods for name in row))
            cells = [[_shown(row.get(name)) for name in names] for row in methods]
            text += f"\nEvaluation, {_code(metric)} on {self.evaluation['num_prompts']} held-out prompts:\n\n"
            text += _table([name.replace("_", " ") for name in names], cells)
        if self.gate is not None:
            passed, number = self.gate
            text += (
                f"\nIntent gate: {passed} of {number} rewrites passed ({passed / number:.1%}), before any fallback.\n"
            )
        return f"\n## Scores\n{text}" if text else ""

    def _provenance(self) -> str:
        if not self.provenance:
            return ""
        versions = ", ".join(f"{name} {number}" for name, number in self.provenance["versions"].items())
        commit = self.provenance["commit"] or "unknown (not a git checkout)"
        config = self.provenance["config"].strip()
        fence = "`" * max(3, 1 + _longest_run(config))
        return (
            f"\n## Provenance\n\nTrained with {versions}; commit of the training code: {commit}.\n\n<details><summary>"
            f"Configuration of the training run</summary>\n\n{fence}yaml\n{config}\n{fence}\n\n"
            "</details>\n"
        )


def _hub_id(pretrained: str) -> str | None:
    """The Hub model that a base is or was derived from; ``None`` if that is not known."""
    if not Path(pretrained).is_dir():
        return pretrained
    card = Path(pretrained) / "README.md"
    metadata = metadata_load(card) if card.is_file() else None
    base = (metadata or {}).get("base_model")
    return base if isinstance(base, str) else None


def _read_gate(path: Path) -> tuple[int, int]:
    """How many of the refactorer's rewrites passed the gate, and of how many."""
    made_by = "`python -m collect rewrite --format jsonl`"
    passed = [
        candidate["gate"]["passed"]
        for number, line in enumerate(lines_of(read_text(path, f"what {made_by} writes")), 1)
        if line.strip()
        for candidate in parse_json(line, Rewriting, f"{path}:{number}", f"make it with {made_by}.")["candidates"]
        if candidate["origin"] == REFACTORED
    ]
    if not passed:
        raise ValueError(f"{path} holds no rewrite of a refactorer; give one to `python -m collect rewrite`.")
    return sum(passed), len(passed)


def _answer(record: Rewrite | Preference | Choice) -> Messages:
    """The answer that a record trains on."""
    if isinstance(record, Choice):
        return [{"role": "assistant", "content": record.label}]
    return record.chosen if isinstance(record, Preference) else record.completion


def _shown(value: Any) -> str:
    if isinstance(value, dict):  # an estimate and its interval
        return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)


def _table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "".join("| " + " | ".join(_cell(str(cell)) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    """A text that can't end its cell of a table."""
    return " ".join(shown(text).split()).replace("|", "\\|")


def _code(text: object) -> str:
    """A text of one line as code, whatever backticks it has."""
    marks = "`" * (1 + _longest_run(str(text)))
    inner = f" {text} " if "`" in str(text) else str(text)
    return f"{marks}{shown(inner)}{marks}"


def _longest_run(text: str) -> int:
    """How many backticks follow one another in a text, at most."""
    return max(map(len, re.findall("`+", text)), default=0)


def _quoted(messages: Sequence[Message]) -> str:
    """Messages as an indented block, which Markdown shows unchanged."""
    lines = [line for message in messages for line in lines_of(f"[{message['role']}] {message['content']}")]
    return "\n".join(f"    {shown(line)}" for line in lines)
