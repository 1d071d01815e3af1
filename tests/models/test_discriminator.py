"""What the discriminator learns, on a tiny Qwen2 and through the trainer's command line."""

import csv
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer

from collect.backends.transformers_lm import TransformersLM
from data_modules import DiscriminatorDataModule
from data_modules.records import Choice, Prompt, content_id, write_records
from data_modules.templates import CHOICE_LABELS, choose
from models import DiscriminatorModule
from models.lora import LoRA
from train.cli import main

COLOURS = ("red", "blue", "green", "yellow")
SHAPES = ("ball", "box", "cone")


def choices(seed: int, count: int) -> list[Choice]:
    """Pairs in both orders; what falls slowly is better."""
    rng = random.Random(seed)
    records = []
    for index in range(count):
        raw = Prompt(f"{seed}/{index}", f"a {rng.choice(COLOURS)} {rng.choice(SHAPES)} falls")
        texts = {"good": f"{raw.prompt} slowly.", "bad": f"{raw.prompt} rolls."}
        for first, second in (("good", "bad"), ("bad", "good")):
            records.append(
                Choice(
                    content_id(raw.id, first),
                    raw.id,
                    choose(raw, texts[first], texts[second]),
                    CHOICE_LABELS[first == "bad"],
                    {kind: float(kind == "good") for kind in (first, second)},
                )
            )
    return records


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("choices")
    for seed, (split, count) in enumerate({"train": 24, "val": 7, "test": 5}.items()):
        write_records(folder / f"{split}.jsonl", choices(seed, count))
    return folder


CONFIG = """
trainer:
  default_root_dir: {root}
  accelerator: cpu
  max_steps: {steps}
  max_epochs: -1
  log_every_n_steps: 1
  enable_progress_bar: false
  enable_model_summary: false
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
model:
  class_path: models.DiscriminatorModule
  init_args:
    pretrained: {pretrained}
    lora: {{r: 4, alpha: 8, dropout: 0.0}}
    optimizer:
      class_path: torch.optim.AdamW
      init_args: {{lr: 1.0e-2}}
data:
  class_path: data_modules.DiscriminatorDataModule
  init_args: {{root: {data}, batch_size: 4, max_length: 256}}
"""


def config(folder: Path, tiny_lm: Path, root: Path, steps: int) -> Path:
    path = folder / "discriminator.yaml"
    path.write_text(CONFIG.format(root=folder / "run", pretrained=tiny_lm, data=root, steps=steps))
    return path


def logged(folder: Path) -> dict[str, float]:
    """The last value of each metric in the newest CSV log."""
    version = max(folder.glob("run/version_*"), key=lambda path: int(path.name.split("_")[1]))
    values: dict[str, float] = {}
    with (version / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            values |= {name: float(value) for name, value in row.items() if value}
    return values


def answered(directory: Path, records: list[Choice]) -> np.ndarray:
    """Probability of A of an exported directory, question by question, with transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    ids = [tokenizer(label, add_special_tokens=False).input_ids[0] for label in CHOICE_LABELS]
    found = []
    for record in records:
        inputs = tokenizer.apply_chat_template(
            record.prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1, ids]
        found.append(float(logits.softmax(-1)[0]))
    return np.array(found)


def expected(first: np.ndarray, records: list[Choice]) -> dict[str, float]:
    """The metrics by their definitions, over all questions at once."""
    is_first = np.array([record.label == "A" for record in records])
    confidence, right = np.maximum(first, 1 - first), (first > 0.5) == is_first
    bins = np.minimum((first * 10).astype(int), 9)
    gaps = [abs(first[bins == b].mean() - is_first[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    assert confidence.min() >= 0.5
    return {
        "loss": log_loss(is_first, first),
        "accuracy": right.mean(),
        "auroc": roc_auc_score(is_first, first),
        "calibration_error": sum(gaps),
        "position_bias": first.mean() - is_first.mean(),
    }


def test_an_export_answers_as_logged_over_the_whole_split(tiny_lm: Path, root: Path, tmp_path: Path) -> None:
    path = config(tmp_path, tiny_lm, root, steps=8)
    main(["fit", f"--config={path}", "--trainer.val_check_interval=4"])
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    main(["test", f"--config={path}", f"--ckpt_path={best}"])
    values = logged(tmp_path)
    hf = tmp_path / "hf"
    main(["export", f"--config={path}", f"--ckpt_path={best}", f"--output_dir={hf}"])
    records = choices(2, 5)
    # 10 questions in batches of 4: neither AUROC nor calibration error is the mean of the batches'.
    for name, value in expected(answered(hf, records), records).items():
        assert values[f"test/{name}"] == pytest.approx(value, abs=1e-5), name
    assert "and the answer it was trained on:\n\n    [user] Choose the better rewrite" in (hf / "README.md").read_text()
    asked = TransformersLM(str(hf), batch_size=3).label_log_probs([r.prompt for r in records], CHOICE_LABELS)
    np.testing.assert_allclose(np.exp(asked[:, 0]), answered(hf, records), atol=1e-5)


def test_validation_logs_every_metric(tiny_lm: Path, root: Path, tmp_path: Path) -> None:
    main(["fit", f"--config={config(tmp_path, tiny_lm, root, steps=2)}", "--trainer.val_check_interval=2"])
    names = {"loss", "accuracy", "auroc", "calibration_error", "position_bias"}
    assert {f"val/{name}" for name in names} <= logged(tmp_path).keys()


def module(tiny_lm: Path, lora: LoRA | None = None) -> DiscriminatorModule:
    built = DiscriminatorModule(pretrained=str(tiny_lm), lora=lora)
    built.configure_model()
    return built


def batch(tiny_lm: Path, root: Path, size: int) -> dict[str, torch.Tensor]:
    data = DiscriminatorDataModule(pretrained=str(tiny_lm), root=root, batch_size=size)
    data.setup("validate")
    return next(iter(data.val_dataloader()))


def test_only_the_two_labels_are_compared(tiny_lm: Path, root: Path) -> None:
    trained = module(tiny_lm)
    trained.eval()
    inputs = batch(tiny_lm, root, 4)
    logits = trained.model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, -1]
    pairs = logits.gather(-1, inputs["label_ids"])
    by_hand = (pairs.logsumexp(-1) - pairs[torch.arange(4), inputs["labels"]]).mean()
    torch.testing.assert_close(trained.step(inputs)["loss"], by_hand, rtol=1e-4, atol=1e-5)


def test_neighbours_in_the_batch_change_nothing(tiny_lm: Path, root: Path) -> None:
    trained = module(tiny_lm)
    trained.eval()
    together = trained.label_logits(batch(tiny_lm, root, 6))
    alone = trained.label_logits(batch(tiny_lm, root, 1))
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_only_adapters_learn_and_are_in_the_checkpoint(tiny_lm: Path, root: Path) -> None:
    trained = module(tiny_lm, LoRA(r=2, alpha=4, dropout=0.0))
    trained.step(batch(tiny_lm, root, 4))["loss"].backward()
    with_gradient = {name for name, p in trained.named_parameters() if p.grad is not None}
    assert with_gradient == trained.state_dict().keys()
    assert all("lora_" in name for name in with_gradient)


def test_a_few_questions_can_be_learned(tiny_lm: Path, root: Path) -> None:
    torch.manual_seed(0)
    trained = module(tiny_lm)
    trained.eval()
    questions = batch(tiny_lm, root, 8)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=5e-3)
    for _ in range(30):
        scores = trained.step(questions)
        optimizer.zero_grad()
        scores["loss"].backward()
        optimizer.step()
    assert scores["accuracy"] == 1.0
    assert scores["loss"] < 0.3  # a coin costs ln 2 = 0.69
