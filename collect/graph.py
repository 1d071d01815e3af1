"""The relation graph: which subjects, actions and atmospheres go with which scenes in a video model's captions.

N nodes, E edges, D dimensions. A node is a phrase of one kind; kinds are separate namespaces. An edge says how often
a modifier was seen in a scene. Nodes are sorted by kind and phrase and edges by node, so a graph is the same however
its captions came in.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lightning.pytorch.loggers import WandbLogger
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from collect import tracking
from collect.encoders import encoder_name, load_encoder
from collect.modifiers import KINDS, Modifiers, extract, normalise, read_csv
from collect.prompts import read_prompts
from collect.protocols import LanguageModel
from data_modules.records import Caption, read_records, unique

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
CHUNK = 2048  # texts encoded at a time
UNSAFE = (
    *("lingerie", "bikini", "underwear", "topless", "nude", "naked", "sexy"),
    *("gun", "guns", "rifle", "pistol", "weapon", "blood", "bloody", "gore", "corpse", "suicide"),
    *("drug", "drugs", "cocaine", "cigarette", "smoking", "beer", "whisky", "alcohol"),
)

Node = tuple[str, str]  # kind and phrase
Edge = tuple[Node, Node]  # scene and modifier


@dataclass(frozen=True)
class Retrieved:
    """A modifier that goes with a prompt.

    Args:
        phrase: the modifier.
        kind: subject, action or atmosphere.
        similarity: cosine to the prompt.
        count: how often it was seen in the scenes nearest to the prompt.
    """

    phrase: str
    kind: str
    similarity: float
    count: int


@dataclass(frozen=True)
class Retrieval:
    """How modifiers are chosen.

    Args:
        num_scenes: nearest scenes whose modifiers are pooled.
        num_modifiers: modifiers to choose.
        min_similarity: cosine to the prompt below which a modifier is about something else.
        max_similarity: cosine to the prompt above which a modifier only repeats it.
        max_per_kind: quota of subjects, actions and atmospheres each.
        diversity: weight, in [0, 1], of being unlike what is chosen already, against being like the prompt.
        blocklist: words that no modifier may contain.
    """

    num_scenes: int = 3
    num_modifiers: int = 5
    min_similarity: float = 0.5
    max_similarity: float = 0.9
    max_per_kind: int = 3
    diversity: float = 0.3
    blocklist: tuple[str, ...] = UNSAFE

    def __post_init__(self) -> None:
        for name in ("num_scenes", "num_modifiers", "max_per_kind"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not -1 <= self.min_similarity <= self.max_similarity <= 1:
            raise ValueError(
                f"min_similarity and max_similarity must be in order and in [-1, 1], "
                f"got {self.min_similarity} and {self.max_similarity}."
            )
        if not 0 <= self.diversity <= 1:
            raise ValueError(f"diversity must be in [0, 1], got {self.diversity}.")

    def blocks(self, phrase: str) -> bool:
        """Whether a phrase contains a blocked word."""
        return any(re.search(rf"\b{re.escape(normalise(word))}\b", phrase) for word in self.blocklist)


@dataclass
class RelationGraph:
    """Scenes, their modifiers and the embeddings of both.

    Args:
        nodes: kind and phrase of each node, sorted.
        edges: ``(E, 3)``: scene, modifier, count; sorted.
        embeddings: ``(N, D)`` unit vectors in half precision.
        encoder: Sentence Transformers id or directory; ``None`` is the packaged all-MiniLM-L6-v2.
    """

    nodes: list[Node]
    edges: NDArray[np.int32]
    embeddings: NDArray[np.float16]
    encoder: str | None = None
    num_scenes: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_scenes = sum(kind == "scene" for kind, _ in self.nodes)  # they come first

    @classmethod
    def build(
        cls, captions: Iterable[Modifiers], base: "RelationGraph | None" = None, encoder: str | None = None
    ) -> "RelationGraph":
        """Make the graph of some captions, or of some captions and those that another graph was made of.

        Raises:
            ValueError: if the base was made with another encoder, or no modifier is left to put in.
        """
        edges: Counter[Edge] = Counter()
        nodes: set[Node] = set()
        vectors: dict[str, NDArray[np.float16]] = {}
        if base is not None:
            _check_encoder(encoder_name(base.encoder), encoder, "the graph to extend")
            nodes.update(base.nodes)
            edges.update({(base.nodes[s], base.nodes[m]): int(count) for s, m, count in base.edges})
            vectors = {phrase: base.embeddings[index] for index, (_, phrase) in enumerate(base.nodes)}
        for caption in captions:
            phrases = [(kind, normalise(text)) for text, kind in caption.phrases()]
            phrases = list(dict.fromkeys(node for node in phrases if node[1]))
            nodes.update(phrases)
            edges.update(
                (scene, modifier)
                for scene in phrases
                for modifier in phrases
                if scene[0] == "scene" and modifier[0] != "scene"
            )
        if not nodes:
            raise ValueError("no caption names a scene, so the graph would be empty.")
        ordered = sorted(nodes, key=lambda node: (KINDS.index(node[0]), node[1]))
        fresh = sorted({phrase for _, phrase in ordered} - vectors.keys())
        vectors.update(zip(fresh, encode(fresh, encoder), strict=True))
        place = {node: index for index, node in enumerate(ordered)}
        table = sorted((place[scene], place[modifier], count) for (scene, modifier), count in edges.items())
        return cls(
            ordered,
            np.array(table, np.int32).reshape(-1, 3),
            np.stack([vectors[phrase] for _, phrase in ordered]),
            encoder,
        )

    def save(self, folder: Path) -> None:
        """Write ``nodes.parquet``, ``edges.parquet``, ``embeddings.npy`` and, when all is there, ``meta.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        kinds, phrases = zip(*self.nodes, strict=True)
        (folder / "meta.json").unlink(missing_ok=True)
        pq.write_table(
            pa.table({"phrase": phrases, "kind": pa.array(kinds).dictionary_encode()}), folder / "nodes.parquet"
        )
        columns = dict(zip(("scene", "modifier", "count"), self.edges.T, strict=True))
        pq.write_table(pa.table(columns), folder / "edges.parquet")
        partial = folder / "embeddings.partial.npy"
        np.save(partial, self.embeddings)
        partial.replace(folder / "embeddings.npy")
        meta = {
            "schema_version": SCHEMA_VERSION,
            "encoder": encoder_name(self.encoder),
            "dimension": self.embeddings.shape[1],
            "nodes": len(self.nodes),
            "edges": len(self.edges),
        }
        (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def open(cls, folder: Path, encoder: str | None = None) -> "RelationGraph":
        """Open a saved graph; its embeddings stay on disk until they are looked at.

        Raises:
            FileNotFoundError: if there is no graph.
            ValueError: if it was made with another encoder or another version, or is not whole.
        """
        path = folder / "meta.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no finished graph; build one with `python -m collect graph`.")
        meta = json.loads(path.read_text(encoding="utf-8"))
        if meta.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(
                f"{folder} has version {meta.get('schema_version')}, not {SCHEMA_VERSION}; build it again."
            )
        _check_encoder(meta["encoder"], encoder, str(folder))
        nodes = pq.read_table(folder / "nodes.parquet")
        edges = pq.read_table(folder / "edges.parquet")
        embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
        if (len(nodes), len(edges), embeddings.shape) != (
            meta["nodes"],
            meta["edges"],
            (meta["nodes"], meta["dimension"]),
        ):
            raise ValueError(f"{folder} is not whole: its tables do not have the sizes in meta.json; build it again.")
        return cls(
            list(zip(nodes["kind"].to_pylist(), nodes["phrase"].to_pylist(), strict=True)),
            np.stack([edges[name].to_numpy() for name in ("scene", "modifier", "count")], 1).astype(np.int32),
            embeddings,
            encoder,
        )

    def retrieve(self, prompts: Sequence[str], settings: Retrieval) -> list[list[Retrieved]]:
        """Choose modifiers for each prompt: the nearest scenes, all that goes with them, then the most fitting.

        Modifiers are chosen one by one by maximal marginal relevance, most relevant first; what is equally good is
        chosen in alphabetical order.
        """
        model = load_encoder(self.encoder)
        vectors = model.encode(list(prompts), normalize_embeddings=True, show_progress_bar=False)
        similarities = vectors @ np.asarray(self.embeddings[: self.num_scenes], np.float32).T
        return [self._choose(vector, scores, settings) for vector, scores in zip(vectors, similarities, strict=True)]

    def _choose(
        self, vector: NDArray[np.float32], scene_scores: NDArray[np.float32], settings: Retrieval
    ) -> list[Retrieved]:
        nearest = np.argsort(-scene_scores, kind="stable")[: settings.num_scenes]
        counts: Counter[int] = Counter()
        for scene in nearest:
            first, last = np.searchsorted(self.edges[:, 0], (scene, scene + 1))
            counts.update({int(modifier): int(count) for _, modifier, count in self.edges[first:last]})
        pool = np.array(sorted(counts), np.int64)
        if not len(pool):
            return []
        rows = np.asarray(self.embeddings[pool], np.float32)
        scores = rows @ vector
        left = [
            index
            for index, node in enumerate(pool)
            if settings.min_similarity <= scores[index] <= settings.max_similarity
            and not settings.blocks(self.nodes[node][1])
        ]
        chosen: list[int] = []
        while left and len(chosen) < settings.num_modifiers:
            repeats = (rows[left] @ rows[chosen].T).max(1) if chosen else np.zeros(len(left))
            gains = (1 - settings.diversity) * scores[left] - settings.diversity * repeats
            best = left[int(gains.argmax())]
            chosen.append(best)
            kinds = Counter(self.nodes[pool[index]][0] for index in chosen)
            phrases = {self.nodes[pool[index]][1] for index in chosen}
            left = [
                index
                for index in left
                if kinds[self.nodes[pool[index]][0]] < settings.max_per_kind
                and self.nodes[pool[index]][1] not in phrases
            ]
        return [
            Retrieved(self.nodes[pool[i]][1], self.nodes[pool[i]][0], round(float(scores[i]), 4), counts[int(pool[i])])
            for i in chosen
        ]


def encode(phrases: Sequence[str], encoder: str | None) -> NDArray[np.float16]:
    """Embed phrases as unit vectors, ``(N, D)`` in half precision."""
    model = load_encoder(encoder)
    chunks = [
        model.encode(phrases[start : start + CHUNK], batch_size=64, normalize_embeddings=True, show_progress_bar=False)
        for start in tqdm(range(0, len(phrases), CHUNK), desc="embedding phrases", unit_scale=CHUNK, delay=10)
    ]
    return np.concatenate([np.zeros((0, model.get_embedding_dimension() or 0), np.float32), *chunks]).astype(np.float16)


def _check_encoder(made_with: str, encoder: str | None, what: str) -> None:
    if made_with != encoder_name(encoder):
        raise ValueError(
            f"{what} was made with the encoder {made_with}, not {encoder_name(encoder)}; "
            "name the same encoder, or build the graph again from its captions."
        )


def graph(
    output: Path,
    captions: Path | None = None,
    prompts: Path | None = None,
    base: Path | None = None,
    language_model: LanguageModel | None = None,
    encoder: str | None = None,
    retrieval: Retrieval = Retrieval(),
    limit: int | None = None,
    logger: WandbLogger | None = None,
) -> None:
    """Build a relation graph, or open one, and show the modifiers it has for some prompts.

    Args:
        output: folder of the graph; without captions, it is opened.
        captions: ``.csv`` with the published columns ``Input, verb_obj_word, scenario_word, place``, or ``.jsonl`` of
            caption records, which the language model takes apart.
        prompts: ``.jsonl`` of prompt records, ``.txt`` with a prompt a line, or ``.csv``; their modifiers are printed
            and written to ``retrieved.jsonl``.
        base: folder of a graph to extend; it may be the output folder.
        language_model: takes captions apart; needed for ``.jsonl`` only.
        encoder: Sentence Transformers id or directory; by default the packaged all-MiniLM-L6-v2.
        retrieval: how modifiers are chosen.
        limit: use only so many prompts, from the start of the file.
        logger: a W&B run to log to.

    Raises:
        FileNotFoundError: if a file or a graph does not exist.
        ValueError: if nothing in a file can be read, or a graph was made with another encoder.
    """
    asked = read_prompts(prompts, limit) if prompts is not None else []
    if captions is None and base is not None:
        raise ValueError(f"{base} cannot be extended without captions; name some, or open it as output.")
    console = Console(soft_wrap=True)
    with tracking.start(logger, "graph") as tracked:
        if captions is None:
            built = RelationGraph.open(output, encoder)
            faults: list[str] = []
        else:
            extended = RelationGraph.open(base, encoder) if base is not None else None
            found, faults = _take_apart(captions, language_model)
            built = RelationGraph.build(found, extended, encoder)
            built.save(output)
        kinds = Counter(kind for kind, _ in built.nodes)
        console.print(
            f"{output}: {', '.join(f'{kinds[kind]} x {kind}' for kind in KINDS)}; {len(built.edges)} edges, "
            f"{len(faults)} captions left out"
        )
        tracked.log({f"graph/{kind}": kinds[kind] for kind in KINDS})
        tracked.log({"graph/edges": len(built.edges), "graph/left_out": len(faults)})
        if asked:
            chosen = built.retrieve([prompt.prompt for prompt in asked], retrieval)
            rows = [
                (prompt.prompt, found.phrase, found.kind, found.similarity, found.count)
                for prompt, modifiers in zip(asked, chosen, strict=True)
                for found in modifiers
            ]
            lines = [
                json.dumps(
                    {
                        "prompt_id": prompt.id,
                        "prompt": prompt.prompt,
                        "modifiers": [asdict(found) for found in modifiers],
                    },
                    ensure_ascii=False,
                )
                for prompt, modifiers in zip(asked, chosen, strict=True)
            ]
            (output / "retrieved.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            tracked.log({"graph/modifiers_per_prompt": len(rows) / len(asked)})
            tracked.log_table("graph/retrieved", ["prompt", "modifier", "kind", "similarity", "count"], rows)
            _show(console, [prompt.prompt for prompt in asked], chosen)
            without = sum(not modifiers for modifiers in chosen)
            if without:
                console.print(
                    f"{without} of {len(asked)} prompts have no modifier with a similarity in "
                    f"[{retrieval.min_similarity}, {retrieval.max_similarity}]; a small graph needs a lower minimum."
                )


def _take_apart(path: Path, language_model: LanguageModel | None) -> tuple[list[Modifiers], list[str]]:
    if path.suffix == ".csv":
        return read_csv(path)
    if path.suffix != ".jsonl":
        raise ValueError(f"{path} is of no known kind; expected captions as .csv or .jsonl.")
    captions = unique(read_records(path, Caption))
    if language_model is None:
        raise ValueError(f"{path} holds whole captions; name a language_model that takes them apart.")
    return extract(captions, language_model)


def _show(console: Console, prompts: Sequence[str], chosen: Sequence[Sequence[Retrieved]]) -> None:
    table = Table("prompt", "modifier", "kind", "similarity", "seen")
    for prompt, modifiers in zip(prompts, chosen, strict=True):
        rows = [(m.phrase, m.kind, f"{m.similarity:.2f}", str(m.count)) for m in modifiers] or [("-", "", "", "")]
        for number, row in enumerate(rows):
            table.add_row("" if number else prompt, *row)
    console.print(table)
