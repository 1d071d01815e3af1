"""The relation graph keeps what captions say, in any order and in any number of sittings, and finds it again."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from collect.encoders import load_encoder
from collect.graph import RelationGraph, Retrieval, graph
from collect.modifiers import Modifiers, extract, parse_answer, read_csv
from data_modules.records import Caption, Messages, write_records

HEADER = ["Input", "Output", "verb_obj_word", "scenario_word", "place"]
ROWS = [
    ["a man surfs.", "", "['riding a wave', 'balancing on a board']", "['sunny afternoon']", "['a sandy beach']"],
    ['a dog, running; "fast".', "", "['Chasing a ball ', 'riding a wave']", "['']", "[' A  sandy Beach']"],
    ["a cook \U0001f373 fries.", "", "['frying an egg']", "['steam, smoke and sizzling']", "['a busy kitchen']"],
    ["\u72d7.", "", "['barking']", "['soft light']", "['a busy kitchen', 'a sandy beach']"],
]
WIDE = Retrieval(min_similarity=-1.0, max_similarity=1.0)


def write_csv(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return path


def build(path: Path, base: RelationGraph | None = None) -> RelationGraph:
    return RelationGraph.build(read_csv(path)[0], base)


def edges(built: RelationGraph) -> dict[tuple[str, str], int]:
    return {(built.nodes[s][1], built.nodes[m][1]): int(count) for s, m, count in built.edges}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".npy"}


def test_phrases_are_one_whatever_their_blanks_and_case_and_are_counted(tmp_path: Path) -> None:
    built = build(write_csv(tmp_path / "a.csv", ROWS))
    assert edges(built)["a sandy beach", "riding a wave"] == 2
    assert edges(built)["a sandy beach", "chasing a ball"] == 1
    assert edges(built)["a busy kitchen", "steam, smoke and sizzling"] == 1
    assert [phrase for kind, phrase in built.nodes if kind == "scene"] == ["a busy kitchen", "a sandy beach"]
    assert len(set(built.nodes)) == len(built.nodes)


def test_a_phrase_of_two_kinds_is_two_nodes() -> None:
    built = RelationGraph.build([Modifiers("0", scene=("a beach",), action=("a beach",), atmosphere=("fog",))])
    assert built.nodes == [("scene", "a beach"), ("action", "a beach"), ("atmosphere", "fog")]
    assert edges(built) == {("a beach", "a beach"): 1, ("a beach", "fog"): 1}


def test_extending_gives_the_graph_of_both_corpora(tmp_path: Path) -> None:
    first, second = write_csv(tmp_path / "a.csv", ROWS[:2]), write_csv(tmp_path / "b.csv", ROWS[2:])
    build(write_csv(tmp_path / "ab.csv", ROWS)).save(tmp_path / "both")
    build(first).save(tmp_path / "sittings")
    build(second, RelationGraph.open(tmp_path / "sittings")).save(tmp_path / "sittings")
    build(write_csv(tmp_path / "ba.csv", ROWS[::-1])).save(tmp_path / "reversed")
    for other in ("sittings", "reversed"):
        assert files(tmp_path / other) == files(tmp_path / "both")
        mine, theirs = (np.load(tmp_path / name / "embeddings.npy") for name in (other, "both"))
        assert mine.dtype == np.float16
        np.testing.assert_allclose(mine, theirs, atol=2e-3)


def test_a_saved_graph_opens_as_it_was(tmp_path: Path) -> None:
    built = build(write_csv(tmp_path / "a.csv", ROWS))
    built.save(tmp_path / "graph")
    opened = RelationGraph.open(tmp_path / "graph")
    assert isinstance(opened.embeddings, np.memmap)
    assert opened.nodes == built.nodes
    assert (opened.edges == built.edges).all()
    prompts = ["a surfer at the sea", "cooking"]
    assert opened.retrieve(prompts, WIDE) == built.retrieve(prompts, WIDE) == opened.retrieve(prompts, WIDE)


def test_retrieval_agrees_with_a_plain_search(tmp_path: Path) -> None:
    built = build(write_csv(tmp_path / "a.csv", ROWS))
    prompt = "a surfer at the sea"
    encoder = load_encoder()

    def similarity(phrase: str) -> float:
        pair = encoder.encode([prompt, phrase], normalize_embeddings=True)
        return float(pair[0] @ pair[1])

    settings = Retrieval(num_scenes=1, num_modifiers=3, min_similarity=0.1, max_similarity=1.0, diversity=0.0)
    [found] = built.retrieve([prompt], settings)
    scene = max((phrase for kind, phrase in built.nodes if kind == "scene"), key=similarity)
    assert scene == "a sandy beach"
    pool = sorted({other for place, other in edges(built) if place == scene}, key=similarity, reverse=True)
    assert [modifier.phrase for modifier in found] == [phrase for phrase in pool if similarity(phrase) >= 0.1][:3]
    for modifier in found:
        assert modifier.similarity == pytest.approx(similarity(modifier.phrase), abs=2e-3)
        assert modifier.count == edges(built)[scene, modifier.phrase]


def test_retrieval_keeps_to_its_limits(tmp_path: Path) -> None:
    built = build(write_csv(tmp_path / "a.csv", ROWS))
    prompts = ["a surfer at the sea", "frying an egg in a busy kitchen"]
    for found in built.retrieve(prompts, Retrieval(min_similarity=0.2, max_similarity=0.5)):
        assert all(0.2 <= modifier.similarity <= 0.5 for modifier in found)
    for found in built.retrieve(prompts, Retrieval(min_similarity=-1, max_similarity=1, max_per_kind=1)):
        kinds = [modifier.kind for modifier in found]
        assert sorted(kinds) == sorted(set(kinds))
    for found in built.retrieve(prompts, Retrieval(min_similarity=-1, max_similarity=1, num_modifiers=2)):
        assert len(found) == 2
    blocked = Retrieval(min_similarity=-1, max_similarity=1, blocklist=("Wave", "smoke"))
    phrases = {modifier.phrase for found in built.retrieve(prompts, blocked) for modifier in found}
    assert phrases
    assert not phrases & {"riding a wave", "steam, smoke and sizzling"}


def test_diversity_keeps_near_repetitions_apart() -> None:
    actions = ("riding a big wave", "riding a large wave", "waxing a surfboard")
    built = RelationGraph.build([Modifiers("0", scene=("a beach",), action=actions)])
    settings = {"num_modifiers": 2, "min_similarity": -1.0, "max_similarity": 1.0}
    [alike] = built.retrieve(["a surfer riding waves"], Retrieval(diversity=0.0, **settings))  # type: ignore[arg-type]
    [various] = built.retrieve(["a surfer riding waves"], Retrieval(diversity=0.6, **settings))  # type: ignore[arg-type]
    assert {modifier.phrase for modifier in alike} == set(actions[:2])
    assert {modifier.phrase for modifier in various} > {"waxing a surfboard"}


def test_malformed_rows_are_named_and_the_rest_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [
        ["x", "", "['a'", "['b']", "['c']"],
        ["x", "", "['a']", "['b']"],
        ["x", "", "5", "['b']", "['c']"],
        ["x", "", "['a']", "['b']", "['']"],
        ["x", "", "__import__('os')", "['b']", "['c']"],
    ]
    path = write_csv(tmp_path / "a.csv", [ROWS[0], HEADER, *bad, ROWS[2]])
    graph(tmp_path / "graph", captions=path)
    assert "5 captions left out" in capsys.readouterr().out
    for number in (4, 5, 6, 7, 8):
        assert f"row {number}: " in caplog.text
    assert len(RelationGraph.open(tmp_path / "graph").edges) == 5


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        read_csv(tmp_path / "none.csv")
    (tmp_path / "columns.csv").write_text("Input,place\na,['b']\n")
    with pytest.raises(ValueError, match="verb_obj_word, scenario_word"):
        read_csv(tmp_path / "columns.csv")
    with pytest.raises(ValueError, match="none of 1"):
        read_csv(write_csv(tmp_path / "bad.csv", [["x", "", "[", "[", "["]]))
    with pytest.raises(ValueError, match="empty"):
        RelationGraph.build([])
    with pytest.raises(FileNotFoundError, match="no finished graph"):
        graph(tmp_path)
    write_records(tmp_path / "captions.jsonl", [Caption("0", "a dog", "test")])
    with pytest.raises(ValueError, match="language_model"):
        graph(tmp_path, captions=tmp_path / "captions.jsonl")
    with pytest.raises(ValueError, match="min_similarity"):
        Retrieval(min_similarity=0.9, max_similarity=0.5)


def test_a_graph_of_another_encoder_or_half_a_graph_is_refused(tmp_path: Path) -> None:
    built = build(write_csv(tmp_path / "a.csv", ROWS))
    built.save(tmp_path / "graph")
    with pytest.raises(ValueError, match="all-MiniLM-L6-v2, not some/other"):
        RelationGraph.open(tmp_path / "graph", "some/other")
    with pytest.raises(ValueError, match="not some/other"):
        RelationGraph.build([Modifiers("0", scene=("a",), action=("b",))], built, "some/other")
    meta = json.loads((tmp_path / "graph" / "meta.json").read_text())
    (tmp_path / "graph" / "meta.json").write_text(json.dumps(meta | {"nodes": 1}))
    with pytest.raises(ValueError, match="not whole"):
        RelationGraph.open(tmp_path / "graph")


class Scripted:
    """Answers from a list, in order, and remembers what it was asked."""

    def __init__(self, *rounds: list[str]) -> None:
        self.rounds = list(rounds)
        self.asked: list[Sequence[Messages]] = []

    def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
        self.asked.append(conversations)
        return self.rounds[len(self.asked) - 1]


GOOD = '{"scene": ["a beach"], "subject": ["a dog"], "action": ["running"], "atmosphere": []}'


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Sure! Here it is: {GOOD} I hope this helps.",
        '{"scene": ["A beach ",], "subject": ["a dog"], "action": ["running"], "atmosphere": [],}',
        '{"scene": "a beach", "subject": "[\'a dog\']", "action": ["running"]}',
    ],
)
def test_answers_are_read_as_models_give_them(answer: str) -> None:
    assert parse_answer(answer, "0") == Modifiers("0", ("a beach",), ("a dog",), ("running",))


def test_a_bad_answer_is_asked_for_once_more_and_then_counted() -> None:
    captions = [Caption(str(number), f"caption {number}", "test") for number in range(3)]
    model = Scripted([GOOD, "I cannot.", '{"scene": [], "action": ["x"]}'], ["{nonsense}", GOOD])
    found, faults = extract(captions, model)
    assert [modifiers.caption_id for modifiers in found] == ["0", "2"]
    assert [fault.split(":")[0] for fault in faults] == ["caption 1"]
    assert [len(asked) for asked in model.asked] == [3, 2]
    with pytest.raises(ValueError, match="none of 1"):
        extract(captions[:1], Scripted(["no"], ["no"]))


def test_captions_become_a_graph_and_prompts_their_modifiers(tmp_path: Path) -> None:
    write_records(tmp_path / "captions.jsonl", [Caption("0", "a dog runs on a beach", "test")])
    (tmp_path / "prompts.txt").write_text("a dog, running. Fast\n\nthe sea\n")
    graph(
        tmp_path / "graph",
        captions=tmp_path / "captions.jsonl",
        prompts=tmp_path / "prompts.txt",
        language_model=Scripted([GOOD]),
        retrieval=WIDE,
    )
    lines = [json.loads(line) for line in (tmp_path / "graph" / "retrieved.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["a dog, running. Fast", "the sea"]
    assert {found["phrase"] for found in lines[0]["modifiers"]} == {"a dog", "running"}
    again = (tmp_path / "graph" / "retrieved.jsonl").read_bytes()
    graph(tmp_path / "graph", prompts=tmp_path / "prompts.txt", retrieval=WIDE)
    assert (tmp_path / "graph" / "retrieved.jsonl").read_bytes() == again
