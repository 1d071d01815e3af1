"""Graphs in the published layout go both ways, and what the published scripts get wrong is right here."""

import csv
import json
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import collect.__main__
import collect.graph.relation_graph
from collect.backends.encoders import load_encoder
from collect.graph.build import graph
from collect.graph.modifiers import Modifiers, normalise, read_csv
from collect.graph.relation_graph import RelationGraph
from collect.graph.retrieval import Retrieval, retrieve

Command = Callable[..., None]
Row = tuple[list[str], list[str], list[str]]  # verbs, scenarios, places

WIDE = Retrieval(min_similarity=-1.0, max_similarity=1.0)
ROWS: list[Row] = [
    (["riding a wave", " balancing on a board"], ["a sunny afternoon"], ["a sandy beach"]),
    (["riding a wave", "walking a dog"], ["a sunny afternoon", ""], [" a sandy beach"]),
    (["walking a dog", "standing in a park"], ["a calm mood"], ["standing in a park", "a sandy beach"]),
    (["a sandy beach"], ["a \u72d7 & <friends>"], ["standing in a park"]),
]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run ``python -m collect graph``, in this process."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["collect", "graph", *map(str, arguments)])
        collect.__main__.main()

    return call


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Input", "Output", "verb_obj_word", "scenario_word", "place"])
        writer.writerows([f"caption {number}.", "", *map(repr, row)] for number, row in enumerate(rows))
    return path


def publish(folder: Path, rows: Sequence[Row]) -> Path:
    """Write the layout by hand, with the habits of the published scripts: blanks are kept, and so are empty phrases."""
    folder.mkdir()
    graphs = {"verb": nx.Graph(), "scenario": nx.Graph()}
    places: dict[str, int] = {}
    index: dict[str, dict[str, int]] = {"verb": {}, "scenario": {}, "place": places}
    captions: dict[str, dict[str, list[int]]] = {name: defaultdict(list) for name in index}
    for number, (verbs, scenarios, row_places) in enumerate(rows):
        for place in row_places:
            for name, words in (("scenario", scenarios), ("verb", verbs)):
                for word in words:
                    index[name].setdefault(word, len(index[name]))
                    captions[name][word].append(number)
                    graphs[name].add_edge(place, word)
            places.setdefault(place, len(places))
            captions["place"][place].append(number)
    for name, words_of in index.items():
        vectors = load_encoder().encode(list(words_of)).tolist()
        (folder / ("place_embed.json" if name == "place" else f"{name}_words_embed.json")).write_text(
            json.dumps(vectors, indent=4)
        )
        (folder / f"{name}_to_idx.json").write_text(json.dumps(words_of, indent=4))
        (folder / f"{name}_in_sentence.json").write_text(json.dumps(captions[name], indent=4))
    nx.write_graphml(graphs["verb"], folder / "graph_place_verb.graphml")
    nx.write_graphml(graphs["scenario"], folder / "graph_place_scene.graphml")
    sizes = {"p_idx": len(places), "s_idx": len(index["scenario"]), "v_idx": len(index["verb"])}
    (folder / "data_info.json").write_text(json.dumps({"valid_sentence": len(rows), **sizes}))
    return folder


def same(mine: RelationGraph, theirs: RelationGraph) -> None:
    assert mine.nodes.equals(theirs.nodes)
    assert mine.edges.equals(theirs.edges)
    assert mine.num_captions == theirs.num_captions


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_published_graph_is_imported_with_the_counts_that_its_caption_lists_imply(
    command: Command, tmp_path: Path
) -> None:
    publish(tmp_path / "published", ROWS)
    command("--base", "published", "--output", "imported")
    command("--captions", write_csv(tmp_path / "a.csv", ROWS), "--output", "built")
    imported, built = (RelationGraph.open(tmp_path / name) for name in ("imported", "built"))
    same(imported, built)
    np.testing.assert_allclose(imported.embeddings, built.embeddings, atol=2e-3)


def test_a_published_graph_is_extended(command: Command, tmp_path: Path) -> None:
    publish(tmp_path / "published", ROWS[:2])
    more = write_csv(tmp_path / "b.csv", ROWS[2:])
    command("--base", "published", "--captions", more, "--output", "extended")
    both = RelationGraph.build(read_csv(write_csv(tmp_path / "a.csv", ROWS))[0])
    same(RelationGraph.open(tmp_path / "extended"), both)


def test_an_exported_graph_comes_back_as_it_was(command: Command, tmp_path: Path) -> None:
    captions = [
        Modifiers("0", ("a beach", 'x < y & "z"'), ("a dog", "\u72d7"), ("running",), ("fog, dew",)),
        Modifiers("1", ("a beach",), ("a dog",), ("running", "a park")),
        Modifiers("2", ("a park", "an empty place"), ("\U0001f388 o'clock",), ("a beach",)),
        Modifiers("3", ("a lonely place",)),
        Modifiers("4", ("a park",), action=("a park",)),
    ]
    RelationGraph.build(captions).save(tmp_path / "graph")
    command("--output", "graph", "--export", "published")
    command("--output", "again", "--base", "published")
    there, back = (RelationGraph.open(tmp_path / name) for name in ("graph", "again"))
    same(back, there)
    np.testing.assert_array_equal(back.embeddings, there.embeddings)
    prompts = ["a dog in the park", "the sea"]
    assert retrieve(back, prompts, WIDE) == retrieve(there, prompts, WIDE)


def test_an_exported_graph_answers_what_the_published_scripts_ask_and_may_be_extended_by_them(tmp_path: Path) -> None:
    captions, _ = read_csv(write_csv(tmp_path / "a.csv", ROWS))
    RelationGraph.build(captions).save(tmp_path / "graph")
    folder = tmp_path / "published"
    graph(tmp_path / "graph", export=folder)
    info, index = load(folder / "data_info.json"), {}
    for name, size in (("place", "p_idx"), ("verb", "v_idx"), ("scenario", "s_idx")):
        index[name] = load(folder / f"{name}_to_idx.json")
        vectors = load(folder / ("place_embed.json" if name == "place" else f"{name}_words_embed.json"))
        assert np.array(vectors).shape == (len(index[name]), 384) == (info[size], 384)
    graphs = {name: nx.read_graphml(folder / f"graph_place_{file}.graphml") for name, file in NAMED.items()}
    for name, linked in graphs.items():
        for place in index["place"]:
            assert set(linked.neighbors(place)) <= index[name].keys() | index["place"].keys()
    # One more caption, as they add it: edges without attributes, and its number in the lists of captions.
    number = info["valid_sentence"]
    graphs["verb"].add_edge("a sandy beach", "riding a wave")
    nx.write_graphml(graphs["verb"], folder / "graph_place_verb.graphml")
    for name, phrase in (("place", "a sandy beach"), ("verb", "riding a wave")):
        (folder / f"{name}_in_sentence.json").write_text(json.dumps({phrase: [number]}))
    (folder / "data_info.json").write_text(json.dumps(info | {"valid_sentence": number + 1}))
    more = Modifiers("more", scene=("a sandy beach",), action=("riding a wave",))
    same(RelationGraph.from_published(folder), RelationGraph.build([*captions, more]))


NAMED = {"verb": "verb", "scenario": "scene"}


def test_published_graphs_that_do_not_fit_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = publish(tmp_path / "whole", ROWS)

    def broken(name: str, text: str | None) -> Path:
        folder = Path(shutil.copytree(whole, tmp_path / f"{len(list(tmp_path.iterdir()))}"))
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(text)
        return folder

    other = np.random.default_rng(0).normal(size=(len(load(whole / "verb_to_idx.json")), 384)).tolist()
    for name, text, message in (
        ("graph_place_verb.graphml", None, "graph_place_verb.graphml does not exist"),
        ("graph_place_scene.graphml", "<graphml>", "cannot be read as GraphML"),
        ("verb_to_idx.json", None, "verb_to_idx.json does not exist"),
        ("verb_to_idx.json", '{"a": 0', "is not JSON"),
        ("place_embed.json", "[[1, 2], [3]]", "is not a list of 3 vectors"),
        ("place_to_idx.json", '{"a": 0, "b": 1, "c": 1}', "does not count its 3 phrases from 0"),
        ("place_embed.json", "[[0], [0], [0]]", "vectors without a direction"),
        ("data_info.json", "{}", "how many captions"),
        ("verb_words_embed.json", json.dumps(other), "were not made with sentence-transformers/all-MiniLM-L6-v2"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            RelationGraph.from_published(broken(name, text))
    empty = publish(tmp_path / "empty", [])
    with pytest.raises(ValueError, match="empty"):
        RelationGraph.from_published(empty)
    with pytest.raises(ValueError, match="is not empty"):
        graph(tmp_path / "graph", base=whole, export=empty)
    linked = nx.read_graphml(whole / "graph_place_verb.graphml")
    linked.add_edge("a sandy beach", "in no list")
    nx.write_graphml(linked, whole / "graph_place_verb.graphml")
    RelationGraph.from_published(whole)
    assert "1 edges are left out" in caplog.text


def hashed(phrases: Sequence[str], encoder: str | None, scratch: Path | None = None) -> NDArray[np.float16]:
    """Stands in for the encoder, which would take minutes: one unit vector for one phrase."""
    rows = [np.random.default_rng(list(phrase.encode())).standard_normal(8) for phrase in phrases]
    return np.array([row / np.linalg.norm(row) for row in rows], np.float16).reshape(-1, 8)


WRITTEN = ("a", "A ", "b", " b", "c d", "c  D", "\u00c9", "'", "e, f", '"', "<&>", "1", "01")
PHRASES = st.lists(st.sampled_from(WRITTEN), max_size=3)
CAPTIONS = st.lists(
    st.builds(
        Modifiers, st.just("id"), PHRASES.map(tuple), PHRASES.map(tuple), PHRASES.map(tuple), PHRASES.map(tuple)
    ).filter(lambda caption: bool(caption.scene)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(first=CAPTIONS, second=CAPTIONS)
def test_any_two_corpora_make_one_graph_in_two_sittings_and_it_survives_an_export(
    first: list[Modifiers], second: list[Modifiers]
) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as name:
        patch.setattr(collect.graph.relation_graph, "encode", hashed)
        both = RelationGraph.build([*first, *second])
        RelationGraph.build(first).save(Path(name) / "graph")
        RelationGraph.build(second, RelationGraph.open(Path(name) / "graph")).save(Path(name) / "graph")
        graph(Path(name) / "graph", export=Path(name) / "published")
        for built in (RelationGraph.open(Path(name) / "graph"), RelationGraph.from_published(Path(name) / "published")):
            same(built, both)
            np.testing.assert_array_equal(built.embeddings, both.embeddings)
    counts: Counter[tuple[str, str, str]] = Counter()
    for caption in (*first, *second):
        named = {(kind, normalise(phrase)) for phrase, kind in caption.phrases()}
        counts.update((scene, *node) for of, scene in named for node in named if of == "scene" != node[0])
    rows = both.nodes.to_pylist()
    assert {
        (rows[edge["scene"]]["phrase"], rows[edge["modifier"]]["kind"], rows[edge["modifier"]]["phrase"]): edge["count"]
        for edge in both.edges.to_pylist()
    } == counts


# What the published scripts get wrong


def build(tmp_path: Path, rows: Sequence[Row]) -> RelationGraph:
    return RelationGraph.build(read_csv(write_csv(tmp_path / "captions.csv", rows))[0])


def found(built: RelationGraph, prompt: str, settings: Retrieval = WIDE) -> list[str]:
    [modifiers] = retrieve(built, [prompt], settings)
    return [modifier.phrase for modifier in modifiers]


def test_all_neighbours_are_ranked_not_a_random_five_of_them(tmp_path: Path) -> None:
    """They sample five neighbours at random, unseeded, and then keep the best five of those five."""
    actions = [f"juggling {number} lemons" for number in range(40)] + ["surfing a big wave", "waxing a surfboard"]
    built = build(tmp_path, [(actions, ["fog"], ["a beach"])])
    settings = Retrieval(num_modifiers=2, min_similarity=-1, max_similarity=1, diversity=0)
    assert set(found(built, "a surfer surfs on a wave", settings)) == set(actions[-2:])
    again = build(tmp_path, [(actions[::-1], ["fog"], ["a beach"])])
    assert found(built, "a surfer surfs on a wave") == found(again, "a surfer surfs on a wave")


def test_a_modifier_that_is_a_scene_too_does_not_shift_the_similarities_of_the_others(tmp_path: Path) -> None:
    """They rank a list without the phrases that are places, and look the ranks up in the list with them."""
    verbs = ["standing in a park", "walking a dog", "riding a wave", "frying an egg"]
    built = build(tmp_path, [(verbs, ["fog"], ["a beach"]), (["x"], ["y"], ["standing in a park"])])
    [modifiers] = retrieve(built, ["a surfer on a beach"], Retrieval(1, 9, -1, 1, max_per_kind=9))
    prompt, *vectors = load_encoder().encode(["a surfer on a beach", *(m.phrase for m in modifiers)])
    assert len(modifiers) == 5
    for modifier, vector in zip(modifiers, vectors, strict=True):
        assert modifier.similarity == pytest.approx(float(prompt @ vector), abs=2e-3)


def test_a_scene_without_atmosphere_lends_none_from_another_scene(tmp_path: Path) -> None:
    """They reuse the ranks of the scene before, or stop with a NameError; unlisted neighbours are a KeyError."""
    rows: list[Row] = [(["surfing"], ["a stormy sky"], ["a beach"]), (["cooking"], [""], ["a kitchen"])]
    built = build(tmp_path, rows)
    assert found(built, "a kitchen", Retrieval(1, 5, -1, 1)) == ["cooking"]
    both = Retrieval(2, 5, -1, 1, diversity=0)
    for prompt in ("a beach", "a kitchen"):
        assert set(found(built, prompt, both)) == {"surfing", "cooking", "a stormy sky"}


def test_a_phrase_that_is_scene_and_action_is_no_loop_and_no_scene_is_a_modifier(tmp_path: Path) -> None:
    """They keep places, verbs and scenarios in one namespace, so that a place turns up among its own modifiers."""
    built = build(tmp_path, [(["standing", "talking"], ["calm"], ["standing"]), (["waiting"], ["calm"], ["talking"])])
    [modifiers] = retrieve(built, ["standing"], Retrieval(1, 9, -1, 1, max_per_kind=9))
    assert {(m.kind, m.phrase, m.count) for m in modifiers} == {
        ("action", "standing", 1),
        ("action", "talking", 1),
        ("atmosphere", "calm", 1),
    }


def test_prompts_with_periods_and_modifiers_with_commas_and_hyphens_stay_whole(
    command: Command, tmp_path: Path
) -> None:
    """They write "prompt. modifier, modifier" and cut it again at the first period, at commas and at hyphens."""
    phrase = "a close-up of instruments, photographs, and other items"
    write_csv(tmp_path / "a.csv", [([phrase], ["calm"], ["a room"])])
    (tmp_path / "prompts.txt").write_text("Mr. Smith plays, e.g. a violin. He smiles\n")
    command("--captions", "a.csv", "--output", "graph", "--prompts", "prompts.txt", "--retrieval.min_similarity", "-1")
    [line] = (tmp_path / "graph" / "retrieved.jsonl").read_text().splitlines()
    assert json.loads(line)["prompt"] == "Mr. Smith plays, e.g. a violin. He smiles"
    assert {modifier["phrase"] for modifier in json.loads(line)["modifiers"]} == {phrase, "calm"}


def test_modifiers_that_only_repeat_the_prompt_are_left_out(tmp_path: Path) -> None:
    """They have a floor of similarity and no ceiling, so an alley is enriched with a narrow alley."""
    built = build(tmp_path, [(["an alleyway", "a cat crossing an alley"], ["a narrow alley"], ["a narrow alleyway"])])
    assert "a narrow alley" in found(built, "a narrow alleyway")
    assert found(built, "a narrow alleyway", Retrieval(min_similarity=0.3)) == ["a cat crossing an alley"]


def test_unsafe_phrases_are_left_out(tmp_path: Path) -> None:
    """They hand lingerie and guns from the captions on to neutral prompts."""
    verbs = ["holding a gun", "wearing lingerie", "Smoking", "holding a begun letter"]
    built = build(tmp_path, [(verbs, ["calm"], ["a room"])])
    assert set(found(built, "a person in a room")) == {"holding a begun letter", "calm"}


def test_running_again_writes_the_same_lines_once_and_every_prompt_has_one(command: Command, tmp_path: Path) -> None:
    """They append to their files, so a second run doubles every row, and a failed row shifts those after it."""
    write_csv(tmp_path / "a.csv", ROWS)
    prompts = [f"prompt {number} of a surfer" for number in range(40)] + ["quantum chromodynamics"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    arguments = ("--captions", "a.csv", "--output", "graph", "--prompts", "prompts.txt")
    command(*arguments, "--retrieval.min_similarity", "0.2")
    written = (tmp_path / "graph" / "retrieved.jsonl").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["prompt"] for line in lines] == prompts
    assert lines[-1]["modifiers"] == []
    command(*arguments, "--retrieval.min_similarity", "0.2")
    assert (tmp_path / "graph" / "retrieved.jsonl").read_text() == written


def test_no_line_of_what_was_retrieved_is_a_header(command: Command, tmp_path: Path) -> None:
    """They write the header of their table again before each of the first thirty rows; such tables are read too."""
    path = write_csv(tmp_path / "a.csv", ROWS)
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(f"{header}\n{line}" for line in lines), encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("a surfer\na dog\n")
    command("--captions", "a.csv", "--output", "graph", "--prompts", "prompts.txt")
    retrieved = (tmp_path / "graph" / "retrieved.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in retrieved] == ["a surfer", "a dog"]
    assert not (tmp_path / "graph" / "left_out.txt").exists()
    same(RelationGraph.open(tmp_path / "graph"), build(tmp_path, ROWS))


def test_blanks_make_no_second_node_and_only_empty_phrases_are_left_out(tmp_path: Path) -> None:
    """They strip phrases in one of two scripts, and take a list that starts with an empty phrase for an empty list."""
    rows: list[Row] = [(["", "surfing"], [" fog"], ["a beach "]), (["surfing "], [""], ["", "a  beach"])]
    built = build(tmp_path, rows)
    assert built.nodes["phrase"].to_pylist() == ["a beach", "surfing", "fog"]
    assert built.edges["count"].to_pylist() == [2, 1]


def test_a_caption_without_an_action_or_an_atmosphere_still_counts(tmp_path: Path) -> None:
    """They drop a caption unless all three of its lists have something in them."""
    built = build(tmp_path, [([""], ["fog"], ["a beach"]), (["surfing"], [""], ["a beach"])])
    assert (len(built.edges), built.num_captions) == (2, 2)


def test_each_phrase_is_embedded_once_and_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They call the encoder once for each phrase."""
    calls: list[list[str]] = []
    encode = load_encoder().encode

    def watched(texts: list[str], **settings: Any) -> Any:
        calls.append(texts)
        return encode(texts, **settings)

    monkeypatch.setattr(load_encoder(), "encode", watched)
    built = build(tmp_path, [*ROWS, *ROWS])
    [texts] = calls
    assert len(texts) == len(set(texts)) < len(built.nodes)


def test_the_settings_are_written_beside_what_they_chose(command: Command, tmp_path: Path) -> None:
    """Their samples were made with other settings than the scripts have, which nothing beside them says."""
    write_csv(tmp_path / "a.csv", ROWS)
    (tmp_path / "prompts.txt").write_text("a surfer\n")
    command("--captions", "a.csv", "--output", "graph", "--prompts", "prompts.txt", "--retrieval.num_scenes", 2)
    settings = load(tmp_path / "graph" / "retrieval.json")
    assert settings["num_scenes"] == 2
    assert Retrieval(**settings | {"blocklist": tuple(settings["blocklist"])}) == Retrieval(num_scenes=2)
