"""What a video model reads of a prompt, asked of its checkpoint's tokenizer."""

import io
import json
import logging
from pathlib import Path

import pytest
import sentencepiece
from jsonargparse import Namespace

from collect.backends.token_budget import budget_of, set_generator_of_gates, warn_of_long_prompts
from collect.intent import IntentGate
from tests.collect.backends.tiny_pipelines import word_tokenizer


def checkpoint(folder: Path, name: str) -> dict:
    """What of a checkpoint is read: its index and tokenizer; there are no weights to load."""
    folder.mkdir(exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    word_tokenizer().save_pretrained(folder / "tokenizer")
    return {"class_path": "collect.backends.DiffusersGenerator", "init_args": {"pretrained": str(folder)}}


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("AnimateDiffPipeline", 77),
        ("CogVideoXPipeline", 226),
        ("HunyuanVideoPipeline", 256),
        ("LTX2Pipeline", 1024),
        ("LTXPipeline", 128),
        ("LattePipeline", 120),
        ("SanaVideoPipeline", 300),
        ("WanPipeline", 512),
    ],
)
def test_the_budget_is_the_pipelines_own(tmp_path: Path, name: str, tokens: int) -> None:
    config = checkpoint(tmp_path / "model", name)
    budget = budget_of(config)
    assert budget is not None
    assert budget.max_tokens == tokens
    config["init_args"]["call_kwargs"] = {"max_sequence_length": 32}
    assert budget_of(config).max_tokens == 32
    assert budget_of({"class_path": "collect.backends.CommandGenerator", "init_args": {"command": ["x"]}}) is None


def test_a_tokenizer_that_is_nothing_but_a_sentencepiece_model_is_read(tmp_path: Path) -> None:
    """So CogVideoX, Latte and LTX-Video are published."""
    config = checkpoint(tmp_path / "model", "CogVideoXPipeline")
    folder = tmp_path / "model/tokenizer"
    for file in folder.iterdir():
        file.unlink()
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red ball falls on the hill at night", "the blue box is on water"] * 20),
        model_writer=model,
        vocab_size=30,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    settings = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"extra_ids": 0}))
    budget = budget_of(config)
    assert budget is not None
    short, long = budget.count(["a red ball", "a red ball on the hill"])
    assert 4 <= short < long


def test_the_gate_counts_as_the_video_model_does(tmp_path: Path) -> None:
    config = checkpoint(tmp_path / "model", "AnimateDiffPipeline")
    fits, over = ("a dog " + "runs " * number for number in (74, 75))  # and the token that ends every text
    for gate in (IntentGate(generator=config), IntentGate(generator=yaml_of(config, tmp_path))):
        assert not [p for p in gate.check([("a dog", fits)])[0].problems if p.startswith("too long")]
        [problem] = [p for p in gate.check([("a dog", over)])[0].problems if p.startswith("too long")]
        assert problem == "too long: 78 tokens, the limit is 77"


def yaml_of(config: dict, folder: Path) -> Path:
    path = folder / "generator.yaml"
    path.write_text(json.dumps(config))
    return path


def test_gates_of_a_config_are_told_of_its_video_model_unless_they_name_a_number() -> None:
    generator = {"class_path": "collect.backends.DiffusersGenerator", "init_args": {"pretrained": "a/b"}}
    told, own = ({"class_path": "collect.intent.IntentGate"} for _ in range(2))
    own["init_args"] = Namespace(max_tokens=50)
    rewriter = Namespace(class_path="collect.rewriters.LMRewriter", init_args=Namespace(gate=Namespace(told)))
    config = Namespace(rewriter=rewriter, alternatives={"other": {"init_args": {"gate": own}}}, rounds=3)
    set_generator_of_gates(config, generator)
    assert rewriter.init_args.gate.init_args.generator == generator
    assert own["init_args"] == Namespace(max_tokens=50)


def test_prompts_that_are_too_long_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    config = checkpoint(tmp_path / "model", "LTXPipeline")
    warn_of_long_prompts(["a dog", "a cat " * 100], config)
    assert "LTXPipeline reads 128 tokens and will not see the end of this prompt of 201: 'a cat a cat" in caplog.text
    assert "a dog" not in caplog.text
