"""collect suite: each benchmark's prompt file in, what its evaluator reads out, and its scores in one table."""

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import collect.__main__
from collect.suites import VBench, vbench
from collect.suites.contamination import overlaps
from data_modules.records import Rewrite, content_id, write_records
from data_modules.templates import refactor

VBENCH = Path(__file__).parents[4] / "shared" / "data" / "vbench" / "prompts.txt"
RAPO = VBENCH.parents[1] / "rapo" / "test_prompts.txt"
needs_vbench = pytest.mark.skipif(not VBENCH.is_file(), reason=f"{VBENCH} (VBench's prompts) is not here")

Suite = Callable[..., Path]


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Suite:
    """Run ``python -m collect suite`` for a benchmark, in this process; return the output folder."""

    def run(benchmark: str, prompt_file: Path, *arguments: object) -> Path:
        asked = (f"--benchmark=collect.suites.{benchmark}", f"--benchmark.prompt_file={prompt_file}")
        command = ("collect", "suite", *asked, f"--output={tmp_path / 'out'}", *map(str, arguments))
        monkeypatch.setattr(sys, "argv", list(command))
        collect.__main__.main()
        return tmp_path / "out"

    return run


FAKES = ("--rewriter=tests.collect.fakes.FakeRewriter", "--generator=tests.collect.fakes.FakeGenerator")


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def table(path: Path, rows: list[list[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.mp4"))


DESCRIPTIONS = [
    ["scenario", "description", "category", "generated_video_name"],
    ["0001_left_take-1_duck.mp4", "a duck", "Solid Mechanics", "0001_left_duck.mp4"],
    ["0199_left_take-2_duck.mp4", "a duck", "Solid Mechanics", "0199_left_duck.mp4"],
]
CAPTIONS = [["video_url", "caption"], ["one", "milk pours"], ["two", "milk pours"], ["three", "x falls"]]


@pytest.mark.parametrize(
    ("benchmark", "file", "content", "videos", "rewrites"),
    [
        (
            "VBench",
            "VBench_full_info.json",
            [
                {"prompt_en": "a still cup", "dimension": ["temporal_flickering"]},
                {"prompt_en": "x runs, in Paris.", "dimension": ["color", "scene"]},
            ],
            [f"a still cup-{i}.mp4" for i in range(25)] + [f"x runs, in Paris.-{i}.mp4" for i in range(5)],
            {"all_dimension.txt": ["a still cup here", "x runs, in Paris."]},
        ),
        (
            "VBench2",
            "VBench2_full_info.json",
            [
                {"prompt_en": "a man", "dimension": ["Diversity"]},
                {"prompt_en": "x" * 200, "dimension": ["Material"]},
                {"prompt_en": "a boat", "dimension": ["Material"]},
            ],
            [f"Diversity/a man-{i}.mp4" for i in range(20)]
            + [f"Material/{'x' * 180}-{i}.mp4" for i in range(3)]
            + [f"Material/a boat-{i}.mp4" for i in range(3)],
            {"VBench2_full_text.txt": ["a man here", "x" * 200, "a boat here"]},
        ),
        (
            "VBench2",
            "VBench2_full_text.txt",
            "\n".join(f"man {number}" for number in range(11)),
            [f"man {n}-{i}.mp4" for n in range(11) for i in range(20 if n < 10 else 3)],
            {"VBench2_full_text.txt": [f"man {number} here" for number in range(11)]},
        ),
        (
            "EvalCrafter",
            "prompt700.txt",
            "a cat\n\nx sits\n",
            ["0000.mp4", "0001.mp4"],
            {"prompt700.txt": ["a cat here", "", "x sits"]},
        ),
        (
            "FETV",
            "fetv_data.json",
            '{"video_id": 1, "prompt": "a stream"}\n{"video_id": 2, "prompt": "x flows"}\n',
            ["0.mp4", "1.mp4"],
            {"fetv_data.txt": ["a stream here", "x flows"]},
        ),
        (
            "PhyGenBench",
            "prompts.json",
            [{"caption": "a stone sinks ", "main_category": "Force"}, {"caption": "x melts", "main_category": "Heat"}],
            ["output_video_1.mp4", "output_video_2.mp4"],
            {"prompts.txt": ["a stone sinks here", "x melts"]},
        ),
    ],
    ids=["VBench", "VBench2-dimensions", "VBench2-combined", "EvalCrafter", "FETV", "PhyGenBench"],
)
def test_videos_have_the_names_that_the_evaluator_looks_for_and_rewrites_the_lines_of_the_prompts(
    suite: Suite,
    tmp_path: Path,
    benchmark: str,
    file: str,
    content: Any,
    videos: list[str],
    rewrites: dict[str, list[str]],
) -> None:
    output = suite(benchmark, write(tmp_path / file, content), *FAKES)
    assert names(output / "videos") == sorted(videos)
    written = {path.name: path.read_text().removesuffix("\n").split("\n") for path in (output / "rewrites").iterdir()}
    assert written == rewrites


def test_csv_benchmarks_make_each_caption_once_and_say_which_video_shows_it(suite: Suite, tmp_path: Path) -> None:
    output = suite("VideoPhy2", table(tmp_path / "videophy2_test.csv", CAPTIONS), *FAKES)
    rows = read(output / "videos.csv")
    assert [(row["videopath"], row["caption"], row["rewrite"]) for row in rows] == [
        ("videos/0000.mp4", "milk pours", "milk pours here"),
        ("videos/0001.mp4", "x falls", "x falls"),
    ]
    assert names(output / "videos") == ["0000.mp4", "0001.mp4"]
    # The fake writes what it was asked for: the rewrite, with the seed that the file names.
    assert (output / rows[0]["videopath"]).read_text() == f"milk pours here|{rows[0]['seed']}"


def test_physics_iq_has_four_runs_of_the_first_takes(suite: Suite, tmp_path: Path) -> None:
    output = suite("PhysicsIQ", table(tmp_path / "descriptions_original.csv", DESCRIPTIONS), *FAKES)
    assert names(output / "videos") == [f"run_{run:02d}/0001_left_duck.mp4" for run in range(1, 5)]
    assert len({row["seed"] for row in read(output / "videos.csv")}) == 4


def test_each_category_of_t2v_compbench_has_its_folder(suite: Suite, tmp_path: Path) -> None:
    write(tmp_path / "prompts/1_consistent_attr.txt", "a blue cup\nx leaf\n")
    write(tmp_path / "prompts/7_numeracy.txt", "two dogs\n")
    output = suite("T2VCompBench", tmp_path / "prompts", *FAKES)
    assert names(output / "videos") == ["consistent_attr/0001.mp4", "consistent_attr/0002.mp4", "numeracy/0001.mp4"]
    assert (output / "rewrites/7_numeracy.txt").read_text() == "two dogs here\n"


def test_a_folder_of_vbench_gives_flickering_its_25_videos_also_where_another_dimension_repeats_the_prompt(
    suite: Suite, tmp_path: Path
) -> None:
    write(tmp_path / "prompts/scene.txt", "alley\nbar\n")
    write(tmp_path / "prompts/temporal_flickering.txt", "alley\n")
    output = suite("VBench", tmp_path / "prompts", *FAKES)
    expected = [f"alley-{i}.mp4" for i in range(25)] + [f"bar-{i}.mp4" for i in range(5)]
    assert names(output / "videos") == sorted(expected)


@needs_vbench
def test_the_official_file_of_vbench_is_taken_line_by_line(suite: Suite) -> None:
    output = suite("VBench", VBENCH, "--rewriter=tests.collect.fakes.FakeRewriter")
    raw, rewritten = (path.read_text().splitlines() for path in (VBENCH, output / "rewrites" / VBENCH.name))
    assert len(raw) == len(rewritten) == 946
    assert all(text == f"{prompt} here" for prompt, text in zip(raw, rewritten, strict=True))


@needs_vbench
def test_the_first_75_prompts_of_vbench_are_those_of_flickering() -> None:
    asked = VBench(VBENCH).prompts()
    assert [len(prompt.videos) for prompt in asked] == [25] * 75 + [5] * 871
    starts = ("A tranquil tableau of", "In a still frame", "static view")
    assert all(p.prompt.prompt.startswith(starts) or p.prompt.prompt.endswith("frozen in time") for p in asked[:75])


def test_a_run_goes_on_where_it_stopped_and_a_new_rewriter_replaces_the_videos(suite: Suite, tmp_path: Path) -> None:
    prompts = write(tmp_path / "prompt700.txt", "a cat\nx sits\n")
    output = suite("EvalCrafter", prompts, *FAKES)
    made = {path: path.stat().st_ino for path in (output / "renders/videos").iterdir()}
    (output / "videos/0001.mp4").unlink()
    suite("EvalCrafter", prompts, *FAKES)
    assert {path: path.stat().st_ino for path in (output / "renders/videos").iterdir()} == made
    assert names(output / "videos") == ["0000.mp4", "0001.mp4"]
    suite("EvalCrafter", prompts, "--rewriter=tests.collect.fakes.FakeAlternative", FAKES[1])
    assert (output / "videos/0000.mp4").read_text().startswith("see a cat|")
    assert (output / "videos/0001.mp4").stat().st_ino in made.values()  # the rewrite is the same, and so is the video


def test_a_trial_takes_fewer_prompts_and_videos(suite: Suite, tmp_path: Path) -> None:
    prompts = write(tmp_path / "all_dimension.txt", "a cat\nx sits\n")
    output = suite("VBench", prompts, *FAKES, "--limit=1", "--max_videos=2")
    assert names(output / "videos") == ["a cat-0.mp4", "a cat-1.mp4"]


def dimensions(value: float) -> dict[str, list[Any]]:
    """A result of VBench with the same raw score everywhere."""
    scored = (*vbench.QUALITY, *vbench.SEMANTIC)
    return {name.replace(" ", "_"): [value, [{"video_path": "a.mp4"}]] for name in scored}


def scores(output: Path, method: str = "tuned") -> dict[str, float]:
    found: dict[str, float] = json.loads((output / "scores.json").read_text())["measured"][method]
    return found


def test_vbench_totals_are_normalised_as_its_own_script_does(suite: Suite, tmp_path: Path) -> None:
    results = tmp_path / "results"
    write(results / "tuned_eval_results.json", dimensions(0.5))
    prompts = write(tmp_path / "all_dimension.txt", "a cat\n")
    found = scores(suite("VBench", prompts, f'--results={{"tuned": "{results}"}}'))
    assert found["scene"] == pytest.approx(50)
    # By hand from scripts/constant.py: (0.5 - min) / (max - min) per dimension, dynamic degree half, then 4 : 1.
    quality = (0.5 - 0.1462) / 0.8538 + (0.5 - 0.2615) / 0.7385 + (0.5 - 0.6293) / 0.3707 + (0.5 - 0.706) / 0.2915
    quality += 2 * 0.5 + 0.5 * 0.5
    semantic = 5 * 0.5 + 0.5 / 0.8222 + (0.5 - 0.0009) / 0.2846 + 2 * 0.5 / 0.364
    assert found["quality"] == pytest.approx(100 * quality / 6.5)
    assert found["semantic"] == pytest.approx(100 * semantic / 9)
    assert found["total"] == pytest.approx((4 * found["quality"] + found["semantic"]) / 5)


def test_scores_stand_beside_the_papers_and_are_labelled(suite: Suite, tmp_path: Path) -> None:
    for method, score in (("raw", 0.3), ("tuned", 0.4)):
        write(tmp_path / method / f"{method}_eval_results.json", {"multiple_objects": [score, []]})
    prompts = write(tmp_path / "all_dimension.txt", "a cat\n")
    results = json.dumps({method: str(tmp_path / method) for method in ("raw", "tuned")})
    text = (suite("VBench", prompts, f"--results={results}") / "scores.md").read_text()
    head, row = text.splitlines()[0], text.splitlines()[2]
    shown = dict(zip(head.strip("|").split(" | "), row.strip("|").split(" | "), strict=True))
    assert {name.strip(): value.strip() for name, value in shown.items()}.items() >= {
        "raw": "30.000",
        "tuned": "40.000",
        "LaVie (RAPO++ paper, Table 7)": "37.710",
        "LaVie + RAPO++ (RAPO++ paper, Table 7)": "71.890",
    }.items()
    assert "not measured here" in text


@pytest.mark.parametrize(
    ("benchmark", "prompts", "files", "expected"),
    [
        (
            "VBench2",
            ("VBench2_full_text.txt", "a man\n"),
            {"a_eval_results.json": {"Diversity": [0.2, []]}, "b_eval_results.json": {"Composition": [0.4, []]}},
            {"diversity": 20, "composition": 40, "creativity": 30},
        ),
        (
            "T2VCompBench",
            ("1_consistent_attr.txt", "a cup\n"),
            {
                "m_consistent_attr_score.csv": [["name", "prompt", "Score"], ["0001", "a cup", 5], ["score: ", 0.75]],
                "m_object_interactions_score.csv": [["name", "prompt", "Score"], ["score: ", 0.5]],
            },
            {"consistent attribute": 0.75, "object interactions": 0.5},
        ),
        (
            "EvalCrafter",
            ("prompt700.txt", "a cat\n"),
            {
                "final_result.txt": "2026-01-01 00:00:00 Metrics: {}\n2026-01-01 00:00:00 Results: "
                "Visual Quality 62.10, Text-Video Alignment 70.02, Motion Quality 53.00, "
                "Temporal Consistency 61.50, Total 247 \n"
            },
            {
                "visual quality": 62.1,
                "text-video alignment": 70.02,
                "motion quality": 53,
                "temporal consistency": 61.5,
                "total": 247,
            },
        ),
        (
            "FETV",
            ("fetv_data.json", '{"prompt": "a cat"}'),
            {"CLIPScore/auto_eval_results_m.json": {"0": 0.25, "1": 0.35}},
            {"CLIPScore": 0.3},
        ),
        (
            "PhyGenBench",
            ("prompts.json", [{"caption": "a cat"}]),
            {
                "m.json": [
                    {"caption": "a", "main_category": "Force", "m_average": 3},
                    {"caption": "b", "main_category": "Light", "m_average": 0},
                ]
            },
            {"PC": 0.5, "PC, force": 1, "PC, light": 0},
        ),
        (
            "PhysicsIQ",
            ("descriptions.csv", DESCRIPTIONS),
            {
                "run_01_metrics.json": {"final_score_view": 0.2, "final_score_orig": 0.3},
                "run_02_metrics.json": {"final_score_view": 0.4, "final_score_orig": 0.3},
            },
            {"Physics-IQ verified": 30, "Physics-IQ original": 30},
        ),
        (
            "VideoPhy2",
            ("videophy2_test.csv", CAPTIONS),
            {
                "output_sa.csv": [
                    ["", "caption", "videopath", "score"],
                    [0, "a", "v/0.mp4", 4],
                    [1, "b", "v/1.mp4", 5],
                ],
                "output_pc.csv": [
                    ["", "caption", "videopath", "score"],
                    [0, "a", "v/0.mp4", 3],
                    [1, "b", "v/1.mp4", 4],
                ],
            },
            {"SA": 1, "PC": 0.5, "SA and PC": 0.5},
        ),
        (
            "VideoPhy",
            ("test.csv", [["caption", "states_of_matter"], ["milk pours", "fluid_fluid"], ["a ball", "solid_solid"]]),
            {
                "sa.csv": [["v/0000.mp4", "Does it\nentail?", 0.9], ["v/0001.mp4", "Does it?", 0.4]],
                "pc.csv": [["v/0000.mp4", "Is it\nphysical?", 0.1], ["v/0001.mp4", "Is it?", 0.5]],
            },
            {
                **{"SA": 0.5, "PC": 0.5, "SA and PC": 0, "SA, fluid-fluid": 1, "PC, fluid-fluid": 0},
                **{"SA and PC, fluid-fluid": 0, "SA, solid-solid": 0, "PC, solid-solid": 1},
                "SA and PC, solid-solid": 0,
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_results_of_every_evaluator_are_read(
    suite: Suite,
    tmp_path: Path,
    benchmark: str,
    prompts: tuple[str, Any],
    files: dict[str, Any],
    expected: dict[str, float],
) -> None:
    def put(path: Path, content: Any) -> Path:
        return table(path, content) if path.suffix == ".csv" else write(path, content)

    for name, content in files.items():
        put(tmp_path / "results" / name, content)
    output = suite(
        benchmark, put(tmp_path / prompts[0], prompts[1]), f'--results={{"tuned": "{tmp_path / "results"}"}}'
    )
    assert scores(output) == pytest.approx(expected)


def test_training_prompts_that_the_suite_asks_for_are_found_as_same_or_near(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write(
        tmp_path / "prompt700.txt", "A cat and a dog.\nA person swims in the ocean.\na red ball on a table\n"
    )
    asked = ["a person is swimming in the ocean", "a blue ball on a table"]
    records = [Rewrite(content_id(text), refactor(text), [{"role": "assistant", "content": "A."}]) for text in asked]
    write_records(tmp_path / "train.jsonl", records)
    listed = write(tmp_path / "train.txt", "a cat and a dog\n")
    output = suite("EvalCrafter", prompts, f'--training=["{tmp_path / "train.jsonl"}", "{listed}"]')
    rows = read(output / "contamination.csv")
    assert [(row["kind"], row["prompt"], row["training"], Path(row["file"]).name) for row in rows] == [
        ("exact", "A cat and a dog.", "a cat and a dog", "train.txt"),
        ("near", "A person swims in the ocean.", "a person is swimming in the ocean", "train.jsonl"),
    ]
    assert "1 of 3 prompts are in the training texts word for word, 1 nearly" in capsys.readouterr().out


@needs_vbench
def test_the_example_prompts_of_the_method_are_vbenchs() -> None:
    some = VBENCH.read_text().splitlines()[:100]
    assert [o.kind for o in overlaps(some, [RAPO], 0.9)] == ["exact"] * len({*some} & {*RAPO.read_text().splitlines()})


@pytest.mark.parametrize(
    ("benchmark", "file", "content", "arguments", "message"),
    [
        ("VBench", "all_dimension.txt", "a cat\n", [], "nothing to do"),
        ("VBench", "all_dimension.txt", "either/or\n", FAKES, "has a slash"),
        ("VBench", "all_dimension.txt", f"{'a' * 260}\n", FAKES, "at most 255 bytes"),
        ("VBench", "all_dimension.txt", "\n", FAKES, "holds no prompts"),
        (
            "VBench",
            "all_dimension.txt",
            "a cat\n",
            ["--results={}".format('{"a": "nowhere"}')],
            "run the evaluator first",
        ),
        ("PhyGenBench", "prompts.json", [{"prompt": "a"}], FAKES, "must be a list of objects that each have 'caption'"),
        ("FETV", "fetv_data.json", "{'a'", FAKES, "is not JSON"),
        ("VideoPhy", "test.csv", "text\na cat\n", FAKES, "has no column caption; it has text"),
        ("VideoPhy", "sa_in.csv", "caption\n", ['--results={"a": "."}'], "has a row without a score"),
        ("EvalCrafter", "prompt700.txt", "a cat\n", [*FAKES, "--limit=0"], "limit must be at least 1, got 0"),
        ("EvalCrafter", "prompt700.txt", "a cat\n", [*FAKES, "--max_videos=0"], "max_videos must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    suite: Suite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    benchmark: str,
    file: str,
    content: Any,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        suite(benchmark, write(tmp_path / file, content), *arguments)
    assert re.search(f"^error: .*{re.escape(message)}.*$", capsys.readouterr().err, re.MULTILINE)


def test_a_prompt_file_that_is_not_there_says_so(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        suite("VBench", tmp_path / "none.txt", *FAKES)
    assert "none.txt does not exist; fetch the benchmark's prompt file" in capsys.readouterr().err
