"""Mining: what becomes an example, and what is said when nothing does."""

import json
from pathlib import Path

import pytest

from collect.mine import mine
from collect.sspo import Assessment, Candidate, Draft, Trajectory
from collect.store import Store
from data_modules.records import Prompt, Rewrite, content_id, read_records
from data_modules.templates import refactor
from tests.collect.fakes import FakeGate

METRIC = "toy/alignment"


def trajectory(text: str, raw: float, rewrite: str | None = None, score: float = 0.0) -> Trajectory:
    """A search that rendered the raw prompt and, perhaps, one rewrite of it."""
    drafts = [(Draft(text, "raw"), raw)] + [(Draft(rewrite or "", "proposal"), score)] * (rewrite is not None)
    candidates = [Candidate(d, index, Assessment({METRIC: s}, {}, "why")) for index, (d, s) in enumerate(drafts)]
    return Trajectory(Prompt(content_id(text), text), candidates)


def save(folder: Path, searches: list[Trajectory], finished: bool = True) -> Path:
    with Store(folder, {"generator": "fake"}) as store:
        store.enter([search.prompt for search in searches])
        for number in range(2):
            store.remember(
                number, {s.prompt.id: [c.draft for c in s.candidates if c.round == number] for s in searches}
            )
        store.record(searches)
        if finished:
            store.finish()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten improved prompts, four that were perfect, and one each that fails a step."""
    return save(
        tmp_path / "trajectories",
        [
            *(trajectory(f"prompt {index}", 0.25, f"better prompt {index}", 0.75) for index in range(10)),
            *(trajectory(f"fine {index}", 1.0) for index in range(4)),
            trajectory("bad and nothing better", 0.25),
            trajectory("refused", 0.25, "lost", 1.0),
            trajectory("hardly improved", 0.70, "hardly improved at all", 0.75),
        ],
    )


def mined(output: Path) -> dict[str, str]:
    """Champion by raw prompt, over both splits."""
    records = [r for split in ("train", "val") for r in read_records(output / f"{split}.jsonl", Rewrite)]
    return {record.prompt[-1]["content"].split("Prompt: ")[-1]: record.completion[0]["content"] for record in records}


def test_improved_champions_that_pass_the_gate_are_kept_with_a_few_raw_prompts(folder: Path, tmp_path: Path) -> None:
    mine(folder, tmp_path / "mined", FakeGate(), METRIC, min_gain=0.1, raw_share=0.17)
    pairs = mined(tmp_path / "mined")
    left_alone = {raw for raw, champion in pairs.items() if raw == champion}
    assert {raw: c for raw, c in pairs.items() if raw != c} == {f"prompt {i}": f"better prompt {i}" for i in range(10)}
    assert len(left_alone) == 2  # 10 x 0.17 / 0.83, rounded down
    assert all(raw.startswith("fine") for raw in left_alone)


def test_the_template_is_the_one_the_rewriter_is_called_with(folder: Path, tmp_path: Path) -> None:
    mine(folder, tmp_path / "mined", FakeGate(), METRIC)
    for record in read_records(tmp_path / "mined/train.jsonl", Rewrite):
        raw = record.prompt[-1]["content"].split("Prompt: ")[-1]
        assert record.prompt == refactor(raw)


def test_no_prompt_is_in_both_splits_and_mining_again_gives_the_same(folder: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        mine(folder, tmp_path / name, FakeGate(), METRIC, val_share=0.3)
    train, val = (
        {record.prompt[-1]["content"] for record in read_records(tmp_path / f"first/{split}.jsonl", Rewrite)}
        for split in ("train", "val")
    )
    assert train
    assert val
    assert not train & val
    for split in ("train", "val"):
        assert (tmp_path / f"first/{split}.jsonl").read_bytes() == (tmp_path / f"second/{split}.jsonl").read_bytes()


def test_the_funnel_is_written_with_where_it_comes_from(folder: Path, tmp_path: Path) -> None:
    mine(folder, tmp_path / "mined", FakeGate(), METRIC, min_gain=0.1)
    written = json.loads((tmp_path / "mined/funnel.json").read_text())
    assert written["funnel"] == {
        "prompts": 17,
        "rewritten": 12,
        "gated": 11,
        "improved": 10,
        "left_alone": 1,
        "kept": 11,
        "train": 10,
        "val": 1,
    }
    assert written["settings"] == {"generator": "fake"}
    assert written["trajectories"] == str(folder)


@pytest.mark.parametrize(
    ("searches", "step"),
    [
        ([trajectory("a", 0.5)], "prompts"),
        ([trajectory("a", 0.5), trajectory("b", 0.5)], "rewritten"),
        ([trajectory("a", 0.5, "lost a", 1.0), trajectory("b", 0.5, "lost b", 1.0)], "gated"),
        ([trajectory("a", 0.9, "aa", 1.0), trajectory("b", 0.9, "bb", 1.0)], "improved"),
    ],
)
def test_too_few_examples_name_the_step_that_took_them(tmp_path: Path, searches: list[Trajectory], step: str) -> None:
    folder = save(tmp_path / "trajectories", searches)
    with pytest.raises(ValueError, match=f"The step '{step}' left"):
        mine(folder, tmp_path / "mined", FakeGate(), METRIC, min_gain=0.2)
    assert not (tmp_path / "mined").exists()


def test_bad_settings_and_unfinished_searches_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"raw_share must be in \[0, 1\), got 1"):
        mine(folder, tmp_path / "mined", FakeGate(), METRIC, raw_share=1.0)
    with pytest.raises(ValueError, match="has no metric 'alignment' that ranks; it has toy/alignment"):
        mine(folder, tmp_path / "mined", FakeGate(), "alignment")
    unfinished = save(tmp_path / "unfinished", [trajectory("a", 0.5)], finished=False)
    with pytest.raises(ValueError, match="is not finished"):
        mine(unfinished, tmp_path / "mined", FakeGate(), METRIC)
