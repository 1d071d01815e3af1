"""Trajectories for others: what is exported reads back, with the tools others use, as what was searched."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Video, load_dataset

from collect.backends.video import read_video, write_video
from collect.protocols import Verdict
from collect.search.export import export
from collect.search.run import run
from collect.search.trajectories import read_trajectories
from collect.verifiers import FlowVerifier
from tests.collect.fakes import FakeGenerator, FakeProposer, FakeRewriter, FakeVerifier


class Painter(FakeGenerator):
    """Real video files of a grey that depends on text and seed."""

    def generate(self, requests) -> None:
        for request in requests:
            level = (len(request.prompt) * 7 + request.seed) % 256
            write_video(request.path, np.full((2, 16, 16, 3), level, np.uint8))


class Reader(FakeVerifier):
    """Scores by brightness; cannot judge very dark videos."""

    def judge(self, prompts, videos):
        levels = [float(read_video(video).mean()) / 255 for video in videos]
        return [Verdict({"light": v}, f"{v:.2f}") if v > 0.05 else Verdict.failed("too dark") for v in levels]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    (folder / "prompts.csv").write_text("prompt,task\na red box,it falls\nthe sea,\nx falls,\nmilk in tea,\n")
    parts = {"rewriter": FakeRewriter(), "proposer": FakeProposer()}
    run(folder / "prompts.csv", folder / "out", Painter(), [Reader("light"), FlowVerifier()], **parts, rounds=1)
    return folder / "out"


def without_nulls(value: Any) -> dict[str, Any]:
    return {key: item for key, item in (value or {}).items() if item is not None}


@pytest.mark.parametrize("metadata", ["parquet", "jsonl"])
def test_datasets_reads_back_every_video_score_and_critique(searched: Path, tmp_path: Path, metadata: str) -> None:
    export(searched, tmp_path / "dataset", metadata)
    loaded = load_dataset(
        "videofolder", data_dir=str(tmp_path / "dataset"), split="train", cache_dir=str(tmp_path / "cache")
    )
    rows = list(loaded.cast_column("video", Video(decode=False)))
    searches, _ = read_trajectories(searched)
    texts = {(s.prompt.id, c.text): (s, c) for s in searches for c in (*s.candidates, *s.failures)}
    assert {(row["prompt_id"], row["text"]) for row in rows} == texts.keys()
    assert len(rows) == 2 * len(texts)  # two seeds
    for row in rows:
        search, candidate = texts[row["prompt_id"], row["text"]]
        assert (row["prompt"], row["task"]) == (search.prompt.prompt, search.prompt.task)
        assert (row["origin"], row["round"]) == (candidate.proposal.origin, candidate.round)
        assert row["champion"] == (candidate is search.champion)
        assert without_nulls(row["text_scores"]) == candidate.assessment.scores
        assert without_nulls(row["text_observations"]) == candidate.assessment.observations
        assert (row["text_critique"], row["text_error"]) == (candidate.assessment.critique, candidate.assessment.error)
        video = Path(row["video"]["path"])
        assert video.read_bytes() == (searched / "videos" / video.name).read_bytes()
        light = float(read_video(video).mean()) / 255
        assert without_nulls(row["scores"]).get("light/light") == (light if light > 0.05 else None)
    for key, (_, candidate) in texts.items():  # what is said of a text is the mean over its videos
        own = [r["scores"]["light/light"] for r in rows if (r["prompt_id"], r["text"]) == key]
        if candidate.assessment.error is None:
            assert candidate.assessment.scores["light/light"] == pytest.approx(sum(own) / len(own))


def test_the_table_opens_in_pandas_and_the_card_says_how_it_was_made(searched: Path, tmp_path: Path) -> None:
    for _ in range(2):  # the second in place of the first
        export(searched, tmp_path / "dataset")
    table = pd.read_parquet(tmp_path / "dataset/metadata.parquet")
    assert table.groupby("prompt_id")["champion"].any().all()
    card = (tmp_path / "dataset/README.md").read_text()
    _, settings = read_trajectories(searched)
    assert json.dumps(settings, indent=2) in card
    assert f"{len(table)} videos" in card


def test_what_cannot_be_exported_is_named(searched: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(ValueError, match="full is not empty and was not written by an export"):
        export(searched, tmp_path / "full")
    with pytest.raises(FileNotFoundError, match="collect run makes it"):
        export(tmp_path / "nowhere", tmp_path / "out")
    harmed = Path(shutil.copytree(searched, tmp_path / "harmed"))
    next((harmed / "videos").glob("*.mp4")).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 videos are missing.*start the collect run again"):
        export(harmed, tmp_path / "out")
    assert not (tmp_path / "out").exists()
