"""Training against TRL's trainers as oracle: same weights, same examples in every step, no dropout on either side."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from lightning.pytorch import Callback, LightningModule, Trainer
from peft import PeftModel
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from data_modules import JSONLDataModule, PreferenceDataModule, SFTDataModule
from models import DPOModule, SFTModule
from models.lora import LoRA

STEPS = 50
STEPS_WITH_GRADIENTS = 10
LORA = LoRA(r=4, alpha=8, dropout=0.0)
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def lm(tiny_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network without dropout in its attention, which TRL leaves on."""
    directory = tmp_path_factory.mktemp("no_dropout")
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    model.config.attention_dropout = 0.0
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_lm).save_pretrained(directory)
    return directory


def gradients(model: torch.nn.Module) -> Weights:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


class Course:
    """What one trainer did: losses, early gradients and the examples of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[Weights] = []
        self.batches: list[list[list[int]]] = []
        self.initial: Weights = {}


class WatchTRL(TrainerCallback):
    def __init__(self, course: Course) -> None:
        self.course = course

    def on_train_begin(self, args: Any, state: Any, control: Any, model: PeftModel, **_: Any) -> None:
        self.course.initial = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: PeftModel, **_: Any) -> None:
        if len(self.course.gradients) < STEPS_WITH_GRADIENTS:
            self.course.gradients.append(gradients(model))


class WatchLightning(Callback):
    def __init__(self, course: Course) -> None:
        self.course = course

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *_: Any) -> None:
        self.course.losses.append(outputs["loss"].item())

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        if len(self.course.gradients) < STEPS_WITH_GRADIENTS:
            self.course.gradients.append(gradients(module.model))


def settings(output: Path, **others: Any) -> dict[str, Any]:
    return {
        "output_dir": str(output),
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 4,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **others,
    }


def run_trl(trainer: SFTTrainer | DPOTrainer, monkeypatch: pytest.MonkeyPatch) -> Course:
    """Train with TRL, watching what goes in and comes out of every step."""
    course = Course()
    compute_loss = trainer.compute_loss

    def watched(model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        course.batches.append(list(sequences(inputs)))
        loss = compute_loss(model, inputs, *args, **kwargs)
        course.losses.append(loss.item())
        return loss

    monkeypatch.setattr(trainer, "compute_loss", watched)
    trainer.add_callback(WatchTRL(course))
    trainer.train()
    return course


def sequences(inputs: dict[str, torch.Tensor]) -> Iterator[list[int]]:
    """The token ids of a batch's sequences, chosen ones before rejected ones."""
    for index, row in enumerate(inputs["input_ids"]):
        if "attention_mask" in inputs:
            yield row[inputs["attention_mask"][index].bool()].tolist()
        else:
            starts = [*(inputs["position_ids"][index] == 0).nonzero().flatten().tolist(), len(row)]
            yield from (row[start:end].tolist() for start, end in pairwise(starts))


def run_lightning(
    module: SFTModule, data: JSONLDataModule, order: list[list[int]], initial: Weights, root: Path
) -> Course:
    """Train with Lightning from the same adapters on the same examples."""
    course = Course()
    module.configure_model()
    assert module.model.load_state_dict(initial, strict=False).unexpected_keys == []
    loader = data.train_dataloader

    def in_order() -> DataLoader:
        loader()  # which computes the reference
        return DataLoader(data.examples["train"], batch_sampler=order, collate_fn=data.collate)

    data.train_dataloader = in_order
    trainer = Trainer(
        max_steps=STEPS,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=root,
        callbacks=[WatchLightning(course)],
    )
    trainer.fit(module, datamodule=data)
    return course


def require_equal(ours: Course, theirs: Course) -> None:
    """Losses and gradients agree to float32's rounding, over a run in which something was learned."""
    assert len(ours.losses) == len(theirs.losses) == STEPS
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=1e-4, atol=1e-5)
    assert theirs.losses[-1] < theirs.losses[0] - 0.02
    assert len(ours.gradients) == len(theirs.gradients) == STEPS_WITH_GRADIENTS
    for step, (own, other) in enumerate(zip(ours.gradients, theirs.gradients, strict=True)):
        assert own.keys() == other.keys()
        for name, gradient in other.items():
            close = {"rtol": 1e-3, "atol": 1e-4 * gradient.abs().max().item() + 1e-7}
            torch.testing.assert_close(own[name], gradient, **close, msg=f"step {step}, {name}")


def optimizer(parameters: Any) -> Optimizer:
    return AdamW(parameters, lr=1e-3, weight_decay=0.0)


def test_dpo_learns_as_trl_does(lm: Path, preferences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = PreferenceDataModule(pretrained=str(lm), root=preferences, batch_size=4, max_length=256)
    data.setup("fit")
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(lm),
        args=DPOConfig(**settings(tmp_path, beta=0.3, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.1])),
        train_dataset=Dataset.from_list(
            [{"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected} for r in data.records["train"]]
        ),
        processing_class=AutoTokenizer.from_pretrained(lm),
        peft_config=LORA.to_peft(DPOModule.task_type),
    )
    theirs = run_trl(trainer, monkeypatch)
    known = {}
    for index, record in enumerate(data.records["train"]):
        prompt, chosen = data.tokenise(record.id, record.prompt, record.chosen)
        known[(*prompt, *chosen)] = index
    order = [[known[tuple(row)] for row in rows[: len(rows) // 2]] for rows in theirs.batches]
    module = DPOModule(pretrained=str(lm), lora=LORA, beta=0.3, optimizer=optimizer)
    ours = run_lightning(module, data, order, theirs.initial, tmp_path)
    require_equal(ours, theirs)

    names = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
    last = next(entry for entry in reversed(trainer.state.log_history) if names[0] in entry)
    batch = data.collate([data.examples["train"][index] for index in order[-1]])
    with torch.no_grad():
        metrics = module.step(batch)  # one optimizer step later than TRL's last line
    assert set(names) <= metrics.keys()
    assert metrics["rewards/margins"] == pytest.approx(last["rewards/margins"], rel=0.2)


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_sft_learns_as_trl_does(
    packing: bool, lm: Path, rewrites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SFTDataModule(pretrained=str(lm), root=rewrites, batch_size=4, max_length=256, packing=packing)
    data.setup("fit")
    rows = {"per_device_train_batch_size": 2} if packing else {}
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(lm),
        args=SFTConfig(**settings(tmp_path, max_length=256, packing=packing, **rows)),
        train_dataset=Dataset.from_list(
            [{"prompt": r.prompt, "completion": r.completion} for r in data.records["train"]]
        ),
        processing_class=AutoTokenizer.from_pretrained(lm),
        peft_config=LORA.to_peft(SFTModule.task_type),
    )
    theirs = run_trl(trainer, monkeypatch)
    known = {tuple(example["input_ids"]): index for index, example in enumerate(data.examples["train"])}
    order = [[known[tuple(row)] for row in rows] for rows in theirs.batches]
    if packing:
        assert max(len(rows) for rows in order) > 4  # more sequences than rows
    module = SFTModule(pretrained=str(lm), lora=LORA, optimizer=optimizer)
    require_equal(run_lightning(module, data, order, theirs.initial, tmp_path), theirs)
