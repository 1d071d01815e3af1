"""Trajectories for others: one row per video in Parquet or JSONL, laid out as a Hugging Face dataset of videos."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from collect.console import PlainConsole
from collect.search.sspo import Candidate, Trajectory
from collect.search.trajectories import JudgedVideo, read_trajectories, read_videos
from data_modules.exports import replaced, require_replaceable
from data_modules.records import to_line

_CARD = """---
task_categories: [text-to-video]
tags: [prompt-optimisation]
---
# Prompt search trajectories

{num_searches} prompts, {num_texts} texts tried for them, {num_videos} videos, each judged against the prompt that the
user wrote. One row per video:

| column | what it holds |
|---|---|
| `file_name` | the video, as `video` once loaded |
| `prompt_id`, `prompt`, `task` | what the user asked for |
| `text` | what was sent to the video model |
| `origin`, `round`, `position` | who wrote the text (`raw`, `rewriter`, `alternative`, `proposal`), and when |
| `champion` | whether the text won its search, by the lowest average rank over `text_scores` |
| `seed`, `generator` | of the video |
| `scores`, `critiques`, `errors` | what each verifier says of this video, or why it says nothing |
| `text_scores`, `text_observations`, `text_critique`, `text_error` | the same over all videos of the text |

```python
from datasets import load_dataset

rows = load_dataset("videofolder", data_dir={folder}, split="train")
```

Made with these settings:

```json
{settings}
```
"""


def export(trajectories: Path, output: Path, metadata: Literal["parquet", "jsonl"] = "parquet") -> None:
    """Write finished searches as a dataset that ``datasets``, pandas and the Hub read as it is.

    Args:
        trajectories: folder that collect run wrote.
        output: new folder, or one that an export wrote, which is replaced. It gets ``metadata.parquet`` or
            ``metadata.jsonl``, ``videos`` and a dataset card. Videos are hard links where the file system allows it,
            and copies elsewhere.
        metadata: kind of the table.
    """
    require_replaceable(output)
    searches, settings = read_trajectories(trajectories)
    videos = read_videos(trajectories)
    missing = [video.path for found in videos.values() for video in found if not video.path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} videos are missing, for instance {missing[0]}; start the collect run again to render them."
        )
    files = {
        f"videos/{video.path.name}": video.path  # equal texts of two prompts share a video
        for found in videos.values()
        for video in found
    }
    rows = [
        row(search, candidate, position, video)
        for search in searches
        for position, candidate in enumerate(in_order(search))
        for video in videos.get((search.prompt.id, candidate.text), [])
    ]
    card = _CARD.format(
        num_searches=len(searches),
        num_texts=sum(len(in_order(search)) for search in searches),
        num_videos=len(rows),
        folder=json.dumps(output.name),
        settings=json.dumps(settings, indent=2),
    )
    with replaced(output) as folder:
        (folder / "videos").mkdir()
        for name in dict.fromkeys(values["file_name"] for values in rows):
            link(files[name], folder / name)
        if metadata == "parquet":
            pq.write_table(pa.Table.from_pylist(uniform(rows)), folder / "metadata.parquet")
        else:
            lines = [to_line(values) for values in uniform(rows)]
            (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")
    PlainConsole().print(f"{len(rows)} videos of {len(searches)} searches in {output}")


def in_order(search: Trajectory) -> list[Candidate]:
    """Every text of a search as it was tried, with those that could not be judged."""
    return sorted((*search.candidates, *search.failures), key=lambda candidate: candidate.round)


def row(search: Trajectory, candidate: Candidate, position: int, video: JudgedVideo) -> dict[str, Any]:
    """Describe one video."""
    found = candidate.assessment
    return {
        "file_name": f"videos/{video.path.name}",
        "prompt_id": search.prompt.id,
        "prompt": search.prompt.prompt,
        "task": search.prompt.task,
        "text": candidate.text,
        "origin": candidate.proposal.origin,
        "round": candidate.round,
        "position": position,
        "champion": candidate is search.champion,
        "seed": video.seed,
        "generator": video.generator,
        "scores": {f"{name}/{m}": s for name, v in video.verdicts.items() for m, s in v.scores.items()},
        "critiques": {name: verdict.critique for name, verdict in video.verdicts.items()},
        "errors": {name: verdict.error for name, verdict in video.verdicts.items() if verdict.error is not None},
        "text_scores": found.scores,
        "text_observations": found.observations,
        "text_critique": found.critique,
        "text_error": found.error,
    }


def uniform(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give nested columns the same keys in every row, absent ones as null; one without any keys becomes null."""
    keys: dict[str, dict[str, None]] = {}
    for values in rows:
        for column, value in values.items():
            if isinstance(value, dict):
                keys.setdefault(column, {}).update(dict.fromkeys(value))
    return [
        {
            column: {key: value.get(key) for key in keys[column]} or None if isinstance(value, dict) else value
            for column, value in values.items()
        }
        for values in rows
    ]


def link(source: Path, target: Path) -> None:
    """Put a file in a second place, without using its size again where that can be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
