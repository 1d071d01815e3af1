"""Relation graphs in the layout of the method's published scripts: undirected GraphML and JSON lists.

The layout (https://github.com/Vchitect/RAPO/blob/7dc531d/examples/Stage1_RAPO/construct_graph.py) has, for places,
verbs and scenarios, a map from phrase to position, a list of embeddings and a map from phrase to the numbers of the
captions that have it; a graph of places and verbs and one of places and scenarios, whose nodes are the phrases; and
the number of captions. Here these are the kinds scene, action and atmosphere. How often two phrases were seen together
is not in it, but follows from the captions they share.

What is written here can be read by those scripts and holds three things more, which they pass over: subjects, in files
named like the others; phrases without neighbours; and the counts, as attributes of the edges. As an edge has no
direction and a phrase may be a place and a verb at once, ``count`` is how often the edge was seen with the
alphabetically first of its ends as the place, ``count_reversed`` with the other. The whole graph is held in memory, as
by the published scripts.
"""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from xml.etree.ElementTree import ParseError

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from collect.graph.modifiers import KINDS, normalise
from data_modules.schema import parse_json
from data_modules.text import quoted, read_text

logger = logging.getLogger(__name__)

NAMES = {"scene": "place", "subject": "subject", "action": "verb", "atmosphere": "scenario"}
GRAPHS = {
    "subject": "graph_place_subject.graphml",
    "action": "graph_place_verb.graphml",
    "atmosphere": "graph_place_scene.graphml",
}
INFO = "data_info.json"
NUM_CAPTIONS = "valid_sentence"
INDEX_COUNTS = {"scene": "p_idx", "action": "v_idx", "atmosphere": "s_idx", "subject": "subject_idx"}
UNIT = 0.01  # half precision leaves the length of a unit vector this near to 1

T = TypeVar("T")
Node = tuple[str, str]  # kind and phrase


@dataclass(frozen=True)
class Published:
    """A graph as it was read.

    Args:
        nodes: kind and phrase of each node.
        edges: how often a scene and a modifier were seen together.
        vectors: unit vectors, ``(D,)``, of the phrases that were written as ``normalise`` writes them.
        num_captions: captions that it was made of.
    """

    nodes: list[Node]
    edges: dict[tuple[Node, Node], int]
    vectors: dict[str, NDArray[np.float16]]
    num_captions: int


def is_published(folder: Path) -> bool:
    """Whether a folder holds a graph in the published layout."""
    return (folder / INFO).is_file()


def read(folder: Path) -> Published:
    """Read a graph, its phrases normalised.

    Raises:
        FileNotFoundError: if a file of the layout is missing.
        ValueError: if a file cannot be read or does not fit the others.
    """
    info = _load(folder / INFO, object)
    if not isinstance(info, dict) or not isinstance(info.get(NUM_CAPTIONS), int):
        raise ValueError(f"{folder / INFO} does not say how many captions there are, under {NUM_CAPTIONS}.")
    vectors: dict[str, NDArray[np.float16]] = {}
    listed: dict[str, dict[str, set[int]]] = {}
    for kind in _kinds(folder):
        rows, matrix = _phrases(folder, kind)
        sizes = {len(vector) for vector in vectors.values()}
        if rows and sizes and matrix.shape[1] not in sizes:
            raise ValueError(f"{folder / _embeddings(kind)} has vectors of another length than the other files.")
        captions = _load(folder / f"{NAMES[kind]}_in_sentence.json", dict[str, list[int]])
        listed[kind] = defaultdict(set)
        for raw, row in rows.items():
            phrase = normalise(raw)
            if phrase:
                listed[kind][phrase].update(captions.get(raw, ()))
            if phrase and phrase == raw:
                vectors[phrase] = matrix[row]
    edges: dict[tuple[Node, Node], int] = {}
    for kind in listed:
        if kind != "scene":
            counts = _counts(folder / GRAPHS[kind], listed["scene"], listed[kind])
            edges.update({(("scene", place), (kind, word)): count for (place, word), count in counts.items()})
    nodes = [(kind, phrase) for kind in listed for phrase in listed[kind]]
    return Published(nodes, edges, vectors, info[NUM_CAPTIONS])


def write(
    folder: Path,
    nodes: Sequence[Node],
    edges: Sequence[NDArray[np.int32]],
    embeddings: NDArray[np.float16],
    num_captions: int,
) -> None:
    """Write a graph, ``data_info.json`` last.

    Args:
        folder: where to.
        nodes: kind and phrase of N nodes.
        edges: scene, modifier and count of E edges, ``(E,)`` each, the first two as positions among the nodes.
        embeddings: ``(N, D)`` unit vectors.
        num_captions: captions that the graph was made of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [phrase for kind, phrase in nodes if kind == "scene"]
    graphs = {kind: nx.Graph() for kind in GRAPHS}
    for graph in graphs.values():
        graph.add_nodes_from(scenes)  # the published retrieval asks both graphs for every place
    for scene, modifier, count in zip(*(column.tolist() for column in edges), strict=True):
        place, (kind, word) = nodes[scene][1], nodes[modifier]
        graphs[kind].add_edge(place, word, **{"count" if place <= word else "count_reversed": count})
    for kind, graph in graphs.items():
        nx.write_graphml(graph, folder / GRAPHS[kind])
    info = {NUM_CAPTIONS: num_captions}
    for kind in KINDS:
        rows = [row for row, node in enumerate(nodes) if node[0] == kind]
        _dump({nodes[row][1]: at for at, row in enumerate(rows)}, folder / f"{NAMES[kind]}_to_idx.json")
        _dump(embeddings[rows].tolist(), folder / _embeddings(kind))
        _dump({}, folder / f"{NAMES[kind]}_in_sentence.json")  # which captions they were is not known any more
        info[INDEX_COUNTS[kind]] = len(rows)
    _dump(info, folder / INFO)


def _kinds(folder: Path) -> list[str]:
    """The kinds in a folder; published graphs have no subjects."""
    return [kind for kind in KINDS if kind != "subject" or (folder / "subject_to_idx.json").exists()]


def _embeddings(kind: str) -> str:
    return "place_embed.json" if kind == "scene" else f"{NAMES[kind]}_words_embed.json"


def _phrases(folder: Path, kind: str) -> tuple[dict[str, int], NDArray[np.float16]]:
    rows = _load(folder / f"{NAMES[kind]}_to_idx.json", dict[str, int])
    path = folder / _embeddings(kind)
    try:
        matrix = np.array(_load(path, list[list[float]]), np.float32).reshape(len(rows), -1 if rows else 0)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a list of {len(rows)} vectors, one for each {NAMES[kind]}.") from error
    if sorted(rows.values()) != list(range(len(rows))):
        raise ValueError(f"{NAMES[kind]}_to_idx.json in {folder} does not count its {len(rows)} phrases from 0.")
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise ValueError(f"{path} holds vectors without a direction.")
    return rows, np.where(abs(lengths - 1) < UNIT, matrix, matrix / lengths).astype(np.float16)


def _counts(path: Path, places: dict[str, set[int]], words: dict[str, set[int]]) -> dict[tuple[str, str], int]:
    """How often each place and word that share an edge were seen together, at least once."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a published graph holds {', '.join(GRAPHS.values())}.")
    try:
        graph = nx.read_graphml(path)
    except (ParseError, nx.NetworkXException, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as GraphML ({quoted(error, 200)}).") from error
    stored: Counter[tuple[str, str]] = Counter()
    unknown = 0
    for ends in graph.edges(data=True):
        first, second = sorted(ends[:2])
        known = False
        for place, word, name in ((first, second, "count"), (second, first, "count_reversed")):
            pair = normalise(place), normalise(word)
            if pair[0] in places and pair[1] in words:
                known = True
                stored[pair] += _count(ends[2].get(name, 0), path)
        unknown += not known
    if unknown:
        logger.warning("%s: %d edges are left out; their ends are in no list of phrases.", path, unknown)
    counts = {pair: count + len(places[pair[0]] & words[pair[1]]) for pair, count in stored.items()}
    # An edge between two phrases that are both place and word is read both ways only if both ways were seen.
    return {pair: count or 1 for pair, count in counts.items() if count or not counts.get(pair[::-1])}


def _count(value: object, path: Path) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(
            f"{path} counts an edge as {quoted(value)}; a count is a whole number of the type long or int."
        )
    return value


def _load(path: Path, kind: type[T]) -> T:
    return parse_json(read_text(path, "a part of the published layout"), kind, str(path), "is the file cut short?")


def _dump(value: object, path: Path) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
