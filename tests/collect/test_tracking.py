"""What the commands log to W&B, read back from an offline run's file."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import collect.__main__

WORDS = ["ant", "bee", "cow", "dog", "elk", "fly"]
WRITERS = {
    name: {"class_path": "tests.collect.examples.test_labels.Writer", "init_args": {"ending": ending}}
    for name, ending in (("plain", " e"), ("long", " e and e"))
}
FAKES = ["--generator=tests.collect.fakes.FakeGenerator", "--gate=collect.intent.IntentGate"]


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a command that logs to a folder of its own."""
    (tmp_path / "prompts.txt").write_text("".join(f"a {word}\n" for word in WORDS))

    def run(verb: str, *arguments: str) -> None:
        logger = ["--logger=lightning.pytorch.loggers.WandbLogger", f"--logger.save_dir={tmp_path / 'logs' / verb}"]
        monkeypatch.setattr(sys, "argv", ["collect", verb, *arguments, *logger, "--logger.offline=true"])
        collect.__main__.main()

    return run


def test_labels_log_their_funnel_and_choice_its_report(
    use: Callable[..., None], tiny_lm: Path, tmp_path: Path, read_wandb: Callable
) -> None:
    use(
        "labels",
        f"--prompts={tmp_path / 'prompts.txt'}",
        f"--output={tmp_path / 'labels'}",
        '--verifiers=[{"class_path": "tests.collect.fakes.FakeVerifier"}]',
        f"--candidates={json.dumps(WRITERS)}",
        "--metric=fake/alignment",
        *FAKES,
    )
    logged = read_wandb(tmp_path / "logs/labels").history
    splits = json.loads((tmp_path / "labels/funnel.json").read_text())["splits"]
    for split, funnel in splits.items():
        steps = {step: count for step, count in funnel.items() if step != "wins"}
        assert {step: logged[f"labels/{split}/{step}"] for step in steps} == {k: [v] for k, v in steps.items()}
    assert splits["train"]["kept"] == 5  # all but the one that validates
    assert logged["labels/pairs/nrows"] == [len(WORDS)]

    use(
        "choice",
        f"--choices={tmp_path / 'labels/train.jsonl'}",
        f"--output={tmp_path / 'choice.json'}",
        "--discriminator.language_model=collect.backends.TransformersLM",
        f"--discriminator.language_model.pretrained={tiny_lm}",
        "--discriminator.language_model.max_new_tokens=1",
    )
    logged = read_wandb(tmp_path / "logs/choice").history
    report = json.loads((tmp_path / "choice.json").read_text())
    scalars = {name: value for name, value in report.items() if isinstance(value, int | float)}
    assert {name: logged[f"choice/{name}"] for name in scalars} == {k: [v] for k, v in scalars.items()}
    assert {"num_pairs", "accuracy", "majority", "auroc", "calibration_error"} <= scalars.keys()


def test_ablation_logs_every_method(use: Callable[..., None], tmp_path: Path, read_wandb: Callable) -> None:
    use(
        "ablation",
        f"--prompts={tmp_path / 'prompts.txt'}",
        f"--output={tmp_path / 'ablation'}",
        "--judge=tests.collect.fakes.FakeVerifier",
        f"--methods={json.dumps({'raw': None, 'refactor': WRITERS['plain'], 'graph_refactor': WRITERS['long']})}",
        "--num_seeds=1",
        *FAKES,
    )
    logged = read_wandb(tmp_path / "logs/ablation").history
    rows = json.loads((tmp_path / "ablation/ablation.json").read_text())
    assert [row["method"] for row in rows] == ["raw", "refactor", "graph_refactor"]
    for row in rows:
        assert logged[f"eval/{row['method']}/score"] == [pytest.approx(row["score"])]
        assert logged[f"eval/{row['method']}/gain"] == [pytest.approx(row["gain"])]
    assert logged["eval/methods/nrows"] == [3]
    assert logged["eval/answers/nrows"] == [3 * len(WORDS)]
