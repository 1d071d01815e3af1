"""The relation graph keeps what captions say, in any order and in any number of sittings, and finds it again."""

import csv
import json
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

import collect.__main__
import collect.graph.embeddings
import collect.graph.modifiers
import collect.graph.retrieval
from collect.backends.encoders import load_encoder
from collect.backends.openai_lm import OpenAILM
from collect.graph.build import graph
from collect.graph.grounding import grounded
from collect.graph.modifiers import KINDS, Modifiers, extract, normalise, parse_answer, read_csv
from collect.graph.relation_graph import RelationGraph
from collect.graph.retrieval import Retrieval, retrieve
from collect.protocols import Answer
from data_modules import templates
from data_modules.records import Caption, Messages, write_records
from data_modules.toyworld import tasks, user_prompt, worlds
from tests.collect.odd_server import answer, odd_servers

HEADER = ["Input", "Output", "verb_obj_word", "scenario_word", "place"]
ROWS = [
    ["a man surfs.", "", "['riding a wave', 'balancing on a board']", "['sunny afternoon']", "['a sandy beach']"],
    ['a dog, running; "fast".', "", "['Chasing a ball ', 'riding a wave']", "['']", "[' A  sandy Beach']"],
    ["a cook \U0001f373 fries.", "", "['frying an egg']", "['steam, smoke and sizzling']", "['a busy kitchen']"],
    ["\u72d7.", "", "['barking']", "['soft light']", "['a busy kitchen', 'a sandy beach']"],
]
VBENCH = Path(__file__).parents[4] / "shared" / "data" / "vbench"
WIDE = Retrieval(min_similarity=-1.0, max_similarity=1.0)


def write_csv(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return path


def build(path: Path, base: RelationGraph | None = None) -> RelationGraph:
    return RelationGraph.build(read_csv(path)[0], base)


def nodes(built: RelationGraph) -> list[tuple[str, str]]:
    return [(row["kind"], row["phrase"]) for row in built.nodes.to_pylist()]


def edges(built: RelationGraph) -> dict[tuple[str, str], int]:
    phrases = [phrase for _, phrase in nodes(built)]
    return {(phrases[row["scene"]], phrases[row["modifier"]]): row["count"] for row in built.edges.to_pylist()}


def tables(folder: Path) -> dict[str, bytes]:
    [only] = folder.glob("tables-*")
    return {path.name: path.read_bytes() for path in only.iterdir() if path.suffix != ".npy"}


def test_phrases_are_one_whatever_their_blanks_and_case_and_are_counted(tmp_path: Path) -> None:
    """The published graphs do not say how often two phrases were seen together."""
    built = build(write_csv(tmp_path / "a.csv", ROWS))
    assert edges(built)["a sandy beach", "riding a wave"] == 2
    assert edges(built)["a sandy beach", "chasing a ball"] == 1
    assert edges(built)["a busy kitchen", "steam, smoke and sizzling"] == 1
    assert [phrase for kind, phrase in nodes(built) if kind == "scene"] == ["a busy kitchen", "a sandy beach"]
    assert len(set(nodes(built))) == len(built.nodes)


def test_a_phrase_of_two_kinds_is_two_nodes() -> None:
    built = RelationGraph.build([Modifiers("0", scene=("a beach",), action=("a beach",), atmosphere=("fog",))])
    assert nodes(built) == [("scene", "a beach"), ("action", "a beach"), ("atmosphere", "fog")]
    assert edges(built) == {("a beach", "a beach"): 1, ("a beach", "fog"): 1}


def test_extending_gives_the_graph_of_both_corpora(tmp_path: Path) -> None:
    first, second = write_csv(tmp_path / "a.csv", ROWS[:2]), write_csv(tmp_path / "b.csv", ROWS[2:])
    build(write_csv(tmp_path / "ab.csv", ROWS)).save(tmp_path / "both")
    build(first).save(tmp_path / "sittings")
    build(second, RelationGraph.open(tmp_path / "sittings")).save(tmp_path / "sittings")
    build(write_csv(tmp_path / "ba.csv", ROWS[::-1])).save(tmp_path / "reversed")
    both = RelationGraph.open(tmp_path / "both")
    assert both.num_captions == len(ROWS)
    for other in ("sittings", "reversed"):
        assert tables(tmp_path / other) == tables(tmp_path / "both")
        opened = RelationGraph.open(tmp_path / other)
        assert opened.num_captions == both.num_captions
        assert opened.embeddings.dtype == np.float16
        np.testing.assert_allclose(opened.embeddings, both.embeddings, atol=2e-3)


def test_a_saved_graph_opens_as_it_was(tmp_path: Path) -> None:
    """The published scripts keep embeddings as JSON, which has to be read whole before the first prompt."""
    built = build(write_csv(tmp_path / "a.csv", ROWS))
    built.save(tmp_path / "graph")
    opened = RelationGraph.open(tmp_path / "graph")
    assert isinstance(opened.embeddings, np.memmap)
    assert opened.nodes.equals(built.nodes)
    assert opened.edges.equals(built.edges)
    prompts = ["a surfer at the sea", "cooking"]
    assert retrieve(opened, prompts, WIDE) == retrieve(built, prompts, WIDE) == retrieve(opened, prompts, WIDE)


def plain_search(
    captions: Sequence[Modifiers], built: RelationGraph, prompt: str, settings: Retrieval
) -> list[tuple[str, str, int]]:
    """The same choice, from the captions themselves, one phrase at a time and in double precision."""
    vectors = dict(zip(nodes(built), built.embeddings.astype(np.float64), strict=True))
    vector = load_encoder().encode([prompt], normalize_embeddings=True)[0].astype(np.float64)
    scenes = sorted({normalise(scene) for caption in captions for scene in caption.scene})
    near = sorted(scenes, key=lambda scene: (-(vectors["scene", scene] @ vector), scene))[: settings.num_scenes]
    seen: Counter[tuple[str, str]] = Counter()
    for caption in captions:
        named = {(kind, normalise(phrase)) for phrase, kind in caption.phrases()}
        for scene in near:
            if ("scene", scene) in named:
                seen.update(node for node in named if node[0] != "scene" and node[1])
    pool = sorted(seen, key=lambda node: (KINDS.index(node[0]), node[1]))
    pool = [n for n in pool if settings.min_similarity <= min(vectors[n] @ vector, 1) <= settings.max_similarity]
    pool = [n for n in pool if not any(word in re.findall(r"\w+", n[1]) for word in settings.blocklist)]
    chosen: list[tuple[str, str]] = []
    while len(chosen) < settings.num_modifiers:
        left = [
            node
            for node in pool
            if node[1] not in {phrase for _, phrase in chosen}
            and sum(kind == node[0] for kind, _ in chosen) < settings.max_per_kind
        ]
        if not left:
            break

        def gain(node: tuple[str, str]) -> float:
            repeats = max((vectors[node] @ vectors[other] for other in chosen), default=0.0)
            return float((1 - settings.diversity) * (vectors[node] @ vector) - settings.diversity * repeats)

        chosen.append(max(left, key=gain))
    return [(kind, phrase, seen[kind, phrase]) for kind, phrase in chosen]


SETTINGS = [
    WIDE,
    Retrieval(),
    Retrieval(num_scenes=1, num_modifiers=3, min_similarity=0.1, max_similarity=1.0, diversity=0.0),
    Retrieval(
        num_scenes=8,
        num_modifiers=12,
        min_similarity=0.2,
        max_similarity=0.6,
        max_per_kind=5,
        diversity=0.7,
        blocklist=(),
    ),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_retrieval_agrees_with_a_plain_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Retrieval
) -> None:
    monkeypatch.setattr(collect.graph.retrieval, "SCENES", 1)  # one at a time, so that every seam is crossed
    captions, _ = read_csv(write_csv(tmp_path / "a.csv", ROWS))
    built = RelationGraph.build(captions)
    for prompt in ("a surfer at the sea", "frying an egg", "a dog barks at a cook on the beach"):
        [found] = retrieve(built, [prompt], settings)
        assert [(m.kind, m.phrase, m.count) for m in found] == plain_search(captions, built, prompt, settings)


def split(number: int, caption: str) -> Modifiers:
    """A plain splitter, where no language model that takes real captions apart is at hand: clauses by their words."""
    parts: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for position, clause in enumerate(re.split(r"[.,;]", caption)):
        words = " ".join(clause.split()[:12])
        place = re.search(r"\b(?:in|on|at|near|under|against|beside|amid|through) ((?:an?|the) .+)", words)
        if place:
            parts["scene"].append(place[1])
        elif position == 0:
            parts["subject"].append(words)
        else:
            parts["action" if re.search(r"ing\b", words) else "atmosphere"].append(words)
    return Modifiers(str(number), **{kind: tuple(phrases) for kind, phrases in parts.items()})


@pytest.mark.skipif(not VBENCH.is_dir(), reason=f"{VBENCH} (real prompts and rewrites) is not here")
def test_retrieval_agrees_with_a_plain_search_on_real_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect.graph.retrieval, "SCENES", 16)
    texts = (VBENCH / "category_rewrites_gpt4o.txt").read_text(encoding="utf-8").splitlines()[::20]
    captions = [split(number, text) for number, text in enumerate(texts)]
    RelationGraph.build(captions).save(tmp_path)
    built = RelationGraph.open(tmp_path)
    assert built.num_scenes > 60
    prompts = (VBENCH / "prompts.txt").read_text(encoding="utf-8").splitlines()[::20]
    for settings in (Retrieval(min_similarity=0.3), SETTINGS[3]):
        found = retrieve(built, prompts, settings)
        plain = [plain_search(captions, built, prompt, settings) for prompt in prompts]
        assert [[(m.kind, m.phrase, m.count) for m in modifiers] for modifiers in found] == plain
        assert sum(map(bool, plain)) > len(prompts) / 2


def test_the_toy_corpus_agrees_with_a_plain_search() -> None:
    captions = [
        parse_answer(tasks.extract(world, random.Random(number)).answer, str(number))
        for number, world in enumerate(worlds("train")[::8])
    ]
    built = RelationGraph.build(captions)
    prompts = [user_prompt(world, random.Random(0)) for world in worlds("test")[::8]]
    settings = Retrieval(min_similarity=0.3)
    found = retrieve(built, prompts, settings)
    assert any(found)
    for prompt, modifiers in zip(prompts, found, strict=True):
        assert [(m.kind, m.phrase, m.count) for m in modifiers] == plain_search(captions, built, prompt, settings)


def test_scenes_that_are_equally_near_come_in_alphabetical_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect.graph.retrieval, "SCENES", 2)
    places = ("a cafe", "a caf\u00e8", "a caf\u00e9", "a caf\u00ea", "a caf\u00eb")  # one vector: accents are dropped
    built = RelationGraph.build([Modifiers(place, (place,), action=(f"sipping {place}",)) for place in places[::-1]])
    assert (built.embeddings[: len(places)] == built.embeddings[0]).all()
    for number in range(1, 6):
        settings = Retrieval(num_scenes=number, max_per_kind=9, min_similarity=-1, max_similarity=1, diversity=0)
        [found] = retrieve(built, ["coffee in a cafe"], settings)
        assert [modifier.phrase for modifier in found] == [f"sipping {place}" for place in places[:number]]


def test_retrieval_keeps_to_its_limits(tmp_path: Path) -> None:
    built = build(write_csv(tmp_path / "a.csv", ROWS))
    prompts = ["a surfer at the sea", "frying an egg in a busy kitchen"]
    for found in retrieve(built, prompts, Retrieval(min_similarity=0.2, max_similarity=0.5)):
        assert all(0.2 <= modifier.similarity <= 0.5 for modifier in found)
    for found in retrieve(built, prompts, Retrieval(min_similarity=-1, max_similarity=1, max_per_kind=1)):
        kinds = [modifier.kind for modifier in found]
        assert sorted(kinds) == sorted(set(kinds))
    for found in retrieve(built, prompts, Retrieval(min_similarity=-1, max_similarity=1, num_modifiers=2)):
        assert len(found) == 2
    blocked = Retrieval(min_similarity=-1, max_similarity=1, blocklist=("Wave", "smoke"))
    phrases = {modifier.phrase for found in retrieve(built, prompts, blocked) for modifier in found}
    assert phrases
    assert not phrases & {"riding a wave", "steam, smoke and sizzling"}


def test_diversity_keeps_near_repetitions_apart() -> None:
    actions = ("riding a big wave", "riding a large wave", "waxing a surfboard")
    built = RelationGraph.build([Modifiers("0", scene=("a beach",), action=actions)])
    settings = {"num_modifiers": 2, "min_similarity": -1.0, "max_similarity": 1.0}
    [alike] = retrieve(built, ["a surfer riding waves"], Retrieval(diversity=0.0, **settings))  # type: ignore[arg-type]
    [various] = retrieve(built, ["a surfer riding waves"], Retrieval(diversity=0.6, **settings))  # type: ignore[arg-type]
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
    listed = (tmp_path / "graph" / "left_out.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(": ")[0] for line in listed] == [f"{path} row {number}" for number in (4, 5, 6, 7, 8)]
    assert all(line in caplog.text for line in listed)
    assert len(RelationGraph.open(tmp_path / "graph").edges) == 5
    graph(tmp_path / "graph", captions=write_csv(path, ROWS))
    assert not (tmp_path / "graph" / "left_out.txt").exists()


@pytest.mark.parametrize("bad", ["\"a man, surfing,,['x'],['y'],['z']", "a,,\"['x'],['y'],['z']", 'a "b" c,"'])
def test_a_quotation_mark_that_is_never_closed_costs_its_own_line_only(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "a.csv"
    rows = [[f"caption {number}", "", f"['action {number}']", "['fog']", "['a beach']"] for number in range(300)]
    lines = write_csv(path, rows).read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:2], bad, *lines[2:]]), encoding="utf-8")
    found, faults = read_csv(path)
    assert [modifiers.action[0] for modifiers in found] == [f"action {number}" for number in range(300)]
    assert [fault.split(": ")[0] for fault in faults] == [f"{path} row 3"]


def test_a_caption_may_have_any_characters(tmp_path: Path) -> None:
    text = "a \"big\", red\nballoon; \U0001f388 \u6c14\u7403, \u0434\u043e\u043c\r\n'quoted'. a\ttab, and\x00nothing"
    row = [text, "", repr([f"holding {text}"]), "['']", repr([text, "\ud800 half", "\x07"])]
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        csv.writer(file).writerows([HEADER, row, ROWS[0]])
    graph(tmp_path / "graph", captions=path)
    built = RelationGraph.open(tmp_path / "graph")
    clean = "a \"big\", red balloon; \U0001f388 \u6c14\u7403, \u0434\u043e\u043c 'quoted'. a tab, and nothing"
    assert edges(built)[clean, f"holding {clean}"] == 1
    assert [phrase for kind, phrase in nodes(built) if kind == "scene"] == [clean, "a sandy beach", "half"]


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
    with pytest.raises(FileNotFoundError, match="neither in this layout nor in the published one"):
        graph(tmp_path / "graph", base=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        graph(tmp_path / "graph", captions=tmp_path / "none.csv")
    write_records(tmp_path / "captions.jsonl", [Caption("0", "a dog", "test")])
    with pytest.raises(ValueError, match="language_model"):
        graph(tmp_path, captions=tmp_path / "captions.jsonl")
    (tmp_path / "captions.md").write_text("a dog\n")
    with pytest.raises(ValueError, match=r"expected captions as \.jsonl, \.txt or \.csv"):
        graph(tmp_path, captions=tmp_path / "captions.md")
    with pytest.raises(FileNotFoundError, match="no sentence encoder"):
        graph(tmp_path, captions=tmp_path / "captions.jsonl", encoder=str(tmp_path / "encoder"))
    with pytest.raises(ValueError, match="empty"):
        RelationGraph.build([Modifiers("0", action=("running",))])
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
    (tmp_path / "graph" / "meta.json").write_text(json.dumps(meta))
    assert len(RelationGraph.open(tmp_path / "graph").nodes) == meta["nodes"]
    (tmp_path / "graph" / meta["tables"] / "edges.arrow").write_bytes(b"ARROW1")
    with pytest.raises(ValueError, match="not whole"):
        RelationGraph.open(tmp_path / "graph")


def test_a_failed_save_leaves_the_graph_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = write_csv(tmp_path / "a.csv", ROWS[:2]), write_csv(tmp_path / "b.csv", ROWS[2:])
    graph(tmp_path / "graph", captions=first)
    before = RelationGraph.open(tmp_path / "graph")

    def full(*arguments: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(OSError, match="No space"):
            graph(tmp_path / "graph", captions=second, base=tmp_path / "graph")
    assert RelationGraph.open(tmp_path / "graph").nodes.equals(before.nodes)
    graph(tmp_path / "graph", captions=second, base=tmp_path / "graph")
    assert nodes(RelationGraph.open(tmp_path / "graph")) == nodes(build(write_csv(tmp_path / "ab.csv", ROWS)))
    assert sorted(path.name for path in (tmp_path / "graph").iterdir()) == ["meta.json", "tables-3"]


KILLED = """
import os, signal, sys
from pathlib import Path
import collect.graph.build
import collect.graph.embeddings
from collect.backends.encoders import load_encoder

collect.graph.embeddings.CHUNK = 8
model = load_encoder()
encode, calls = model.encode, []

def dying(texts, **settings):
    calls.append(texts)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(texts, **settings)

model.encode = dying
collect.graph.build.graph(Path(sys.argv[1]), captions=Path(sys.argv[2]))
"""


def test_a_build_that_is_killed_while_embedding_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[f"{n}", "", f"['action {n}', 'the {n}th deed']", f"['mood {n}']", f"['place {n}']"] for n in range(9)]
    path = write_csv(tmp_path / "a.csv", rows)
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "graph", path], check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(FileNotFoundError, match="no finished graph"):
        RelationGraph.open(tmp_path / "graph")
    [unfinished] = (tmp_path / "graph" / "unfinished").iterdir()
    assert unfinished.stat().st_size == 2 * 8 * 384 * 2
    with unfinished.open("ab") as file:
        file.write(b"torn")
    monkeypatch.setattr(collect.graph.embeddings, "CHUNK", 8)
    graph(tmp_path / "unbroken", captions=path)
    embedded: list[str] = []
    encode = load_encoder().encode

    def watched(texts: list[str], **settings: object) -> NDArray[np.float32]:
        embedded.extend(texts)
        return encode(texts, **settings)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(load_encoder(), "encode", watched)
    graph(tmp_path / "graph", captions=path)
    whole, resumed = (RelationGraph.open(tmp_path / name) for name in ("unbroken", "graph"))
    assert len(embedded) == len(set(embedded)) == len(whole.nodes) - 2 * 8
    assert tables(tmp_path / "graph") == tables(tmp_path / "unbroken")
    np.testing.assert_array_equal(resumed.embeddings, whole.embeddings)
    assert not (tmp_path / "graph" / "unfinished").exists()


class Scripted:
    """Answers from a list, in order, and remembers what it was asked."""

    def __init__(self, *rounds: list[str]) -> None:
        self.rounds = list(rounds)
        self.asked: list[Sequence[Messages]] = []

    def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
        self.asked.append(conversations)
        return self.rounds[len(self.asked) - 1]


GOOD = '{"scene": ["a beach"], "subject": ["a dog"], "action": ["running"], "atmosphere": []}'
SEEN = "A dog runs along a beach, past a pier."  # what all of it is in


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Sure! Here it is: {GOOD} I hope this helps.",
        '{"scene": ["A beach ",], "subject": ["a dog"], "action": ["running"], "atmosphere": [],}',
        '{"scene": "a beach", "subject": "[\'a dog\']", "action": ["running"]}',
        f"I use {{braces}} like {{these}}. {GOOD} Anything else? {{}}",
        "{'scene': ['a beach'], 'subject': ['a dog'], 'action': ['running'], 'atmosphere': None}",
        '{"Scene": ["a beach", "none"], "Subject": ["a dog"], "Action": ["running"], "Atmosphere": "N/A"}',
        '{"scene": ["a \\ud800beach"], "subject": ["a\\u0000dog"], "action": ["running"], "atmosphere": null}',
    ],
)
def test_answers_are_read_as_models_give_them(answer: str) -> None:
    assert parse_answer(answer, "0") == Modifiers("0", ("a beach",), ("a dog",), ("running",))


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I'm sorry, but I can't help with that.",
        "{",
        "[]",
        "[" * 100_000,
        "{" * 5_000,
        '{"scene": [["a beach"]]}',
        '{"scene": {"a": 1}}',
        '{"scene": [1, 2]}',
        '{"scene": ["", "none"], "action": ["running"]}',
        '{"action": ["running"]}',
    ],
)
def test_garbage_and_refusals_are_no_modifiers(answer: str) -> None:
    with pytest.raises(ValueError, match=r"no JSON object|unreadable JSON|no scene|not a list of texts"):
        parse_answer(answer, "0")


def test_captions_that_come_twice_are_asked_for_once_and_count_twice() -> None:
    captions = [Caption(name, text, "test") for name, text in (("0", SEEN), ("1", "a cat"), ("2", SEEN))]
    model = Scripted([GOOD, "no"], ["no"])
    found, faults = extract(captions, model)
    assert [len(asked) for asked in model.asked] == [2, 1]
    assert [modifiers.caption_id for modifiers in found] == ["0", "2"]
    assert [fault.split(":")[0] for fault in faults] == ["caption 1"]
    assert edges(RelationGraph.build(found))["a beach", "running"] == 2


def test_answers_outlive_a_killed_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect.graph.modifiers, "CHUNK", 2)
    captions = [Caption(str(number), f"{number}. {SEEN}", "test") for number in range(6)]
    first = Scripted([GOOD, "no"], ["no"], [GOOD, GOOD])  # and no more
    with pytest.raises(IndexError):
        extract(captions, first, tmp_path)
    [kept] = tmp_path.iterdir()
    with kept.open("a") as file:
        file.write('["caption 4", {"sc')
    second = Scripted([GOOD, "no"], [GOOD])
    found, faults = extract(captions, second, tmp_path)
    assert [len(asked) for asked in second.asked] == [2, 1]
    assert ([modifiers.caption_id for modifiers in found], len(faults)) == (["0", "2", "3", "4", "5"], 1)
    assert (found, faults) == extract(captions, Scripted([GOOD, "no"], ["no"], [GOOD, GOOD], [GOOD, "no"], [GOOD]))


class Seaside:
    """Sees one scene everywhere, until its time has come."""

    calls_left: ClassVar[float] = float("inf")
    num_asked: ClassVar[int] = 0

    def __init__(self, scene: str) -> None:
        self.scene = scene

    def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
        type(self).calls_left -= 1
        if self.calls_left < 0:
            raise ValueError("out of memory")
        type(self).num_asked += len(conversations)
        return [json.dumps({"scene": [self.scene], "action": ["running"]})] * len(conversations)


def test_a_build_that_goes_on_with_another_language_model_does_not_mix_their_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(collect.graph.modifiers, "CHUNK", 2)
    captions = [Caption(str(number), f"{number}. {SEEN}", "test") for number in range(6)]
    write_records(tmp_path / "captions.jsonl", captions)

    def build(scene: str, calls: float) -> int:
        """Extract modifiers from captions, in so many calls; return how many captions were asked about."""
        monkeypatch.setattr(Seaside, "calls_left", calls)
        monkeypatch.setattr(Seaside, "num_asked", 0)
        arguments = [f"--captions={tmp_path / 'captions.jsonl'}", f"--output={tmp_path / 'graph'}"]
        arguments += [
            "--language_model=tests.collect.graph.test_relation_graph.Seaside",
            f"--language_model.scene={scene}",
        ]
        monkeypatch.setattr(sys, "argv", ["collect", "graph", *arguments])
        if calls < 3:
            with pytest.raises(SystemExit):
                collect.__main__.main()
        else:
            collect.__main__.main()
        return sys.modules["tests.collect.graph.test_relation_graph"].Seaside.num_asked

    assert build("a beach", calls=2) == 4
    assert build("a pier", calls=1) == 2
    assert "holds another language model's answers" in capsys.readouterr().err
    assert build("a pier", calls=3) == 4  # goes on with its own
    assert [phrase for _, phrase in nodes(RelationGraph.open(tmp_path / "graph"))] == ["a pier", "running"]
    assert not (tmp_path / "graph/unfinished").exists()


def test_a_bad_answer_is_asked_for_once_more_and_then_counted() -> None:
    captions = [Caption(str(number), f"{number}. {SEEN}", "test") for number in range(3)]
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


EXAMPLE = '{"scene": ["foggy mountain road"], "subject": ["two cyclists"], "action": ["racing downhill"]}'


@pytest.mark.parametrize(
    ("caption", "said", "kept"),
    [
        ("An old man waters tomato plants on a sunny balcony.", ["watering plants", "sun", "roses"], 2),
        ("Fog drifts over a city at night.", ["foggy city", "bedding", "foggy mountain road", "nights"], 2),
        ("Two women were running; geese flew by.", ["a running woman", "flying geese", "three women"], 2),
        ("\u4e00\u53ea\u732b\u5728\u8349\u5730\u4e0a\u8dd1", ["\u732b", "\u8349\u5730", "\u72d7"], 2),
        ("A car drives past, its horn blaring.", ["a carriage", "the horns", "driving"], 2),
    ],
)
def test_a_phrase_is_kept_if_its_caption_has_its_words_in_any_form(caption: str, said: list[str], kept: int) -> None:
    assert len(grounded(said, caption)) == kept


def test_what_a_caption_does_not_say_and_worked_examples_never_enter_the_graph(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    captions = [Caption("0", SEEN, "test"), Caption("1", "A city at dawn.", "test")]
    write_records(tmp_path / "captions.jsonl", captions)
    mixed = '{"scene": ["a beach", "foggy mountain road"], "subject": ["a dog"], "atmosphere": ["bedding"]}'
    graph(
        tmp_path / "graph",
        captions=tmp_path / "captions.jsonl",
        language_model=Scripted([mixed, EXAMPLE], [EXAMPLE]),
        few_shot=True,
    )
    assert {phrase for _, phrase in nodes(RelationGraph.open(tmp_path / "graph"))} == {"a beach", "a dog"}
    assert "5 of 7 phrases are dropped" in caplog.text
    left_out = (tmp_path / "graph" / "left_out.txt").read_text()
    assert left_out == "caption 1: no scene of 'foggy mountain road' is in the caption\n"


def test_an_object_that_is_whole_is_read_though_the_answer_was_cut() -> None:
    rambling = Answer(f"{GOOD}\n{GOOD}\n{GOOD[:20]}", "it repeats itself without end")
    cut = Answer(GOOD[:20], "it was cut after 8 tokens")
    found, faults = extract(
        [Caption("0", SEEN, "test"), Caption("1", f"1. {SEEN}", "test")], Scripted([rambling, cut], [cut])
    )
    assert [modifiers.caption_id for modifiers in found] == ["0"]
    assert faults[0].endswith("it was cut after 8 tokens")


def test_an_endpoint_is_held_to_the_form_of_the_answer() -> None:
    forms: list[object] = []

    def handle(body: dict[str, Any], _: object) -> tuple[int, Any]:
        forms.append(body.get("response_format"))
        if "old" in body["model"] and "response_format" in body:
            return 400, {"error": {"message": "response_format is not supported"}}
        return 200, answer(f"<think>{{a beach}}</think>{GOOD}")

    with odd_servers() as start:
        for model in ("new", "old"):
            found, _ = extract([Caption("0", SEEN, "test")], OpenAILM(start(handle), model))
            assert found == [Modifiers("0", ("a beach",), ("a dog",), ("running",))]
    new, refused, old = forms
    assert new == refused
    assert new["json_schema"]["schema"] == templates.EXTRACT_SCHEMA  # type: ignore[index]
    assert old is None
