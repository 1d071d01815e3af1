"""The relation graph: which subjects, actions and atmospheres go with which scenes in a video model's captions.

N nodes, E edges, D dimensions, P prompts. A node is a phrase of one kind; kinds are separate namespaces. An edge says
how often a modifier was seen in a scene. Nodes are sorted by kind and phrase and edges by node, so a graph is the same
however its captions came in, what belongs to a scene lies together, and a graph on disk is used where it lies: opening
one reads next to nothing.
"""

import hashlib
import json
import logging
import re
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from lightning.pytorch.loggers import WandbLogger
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from collect import tracking
from collect.backends.encoders import encoder_name, load_encoder
from collect.graph import published
from collect.graph.modifiers import KINDS, Modifiers, extract, normalise, read_csv
from collect.prompts import read_prompts
from collect.protocols import LanguageModel
from data_modules.records import Caption, read_records

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 2
EDGE = ("scene", "modifier", "count")
CHUNK = 2048  # texts encoded at a time
SCENES = 4096  # scenes compared at a time: few enough for the processor's cache
ROUNDING = 1e-5  # two ways of adding up one cosine differ by less
NUM_CHECKED = 8  # embeddings of an imported graph that are made again
SAME = 0.99  # cosine above which two embeddings of a phrase come from one encoder, rounded differently
UNSAFE = (
    *("lingerie", "bikini", "underwear", "topless", "nude", "naked", "sexy"),
    *("gun", "guns", "rifle", "pistol", "weapon", "blood", "bloody", "gore", "corpse", "suicide"),
    *("drug", "drugs", "cocaine", "cigarette", "smoking", "beer", "whisky", "alcohol"),
)


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

    @cached_property
    def _blocked(self) -> re.Pattern[str]:
        words = "|".join(re.escape(normalise(word)) for word in self.blocklist)
        return re.compile(rf"\b({words})\b" if words else "(?!)")

    def blocks(self, phrase: str) -> bool:
        """Whether a phrase contains a blocked word."""
        return self._blocked.search(phrase) is not None


@dataclass
class RelationGraph:
    """Scenes, their modifiers and the embeddings of both.

    Args:
        nodes: columns kind and phrase, sorted; N rows.
        edges: columns scene, modifier and count, the first two as rows of the nodes, sorted; E rows.
        embeddings: ``(N, D)`` unit vectors in half precision.
        num_captions: captions that were put in.
        encoder: Sentence Transformers id or directory; ``None`` is the packaged all-MiniLM-L6-v2.
    """

    nodes: pa.Table
    edges: pa.Table
    embeddings: NDArray[np.float16]
    num_captions: int
    encoder: str | None = None
    starts: NDArray[np.int64] = field(init=False)  # first node of each kind, and the number of nodes
    num_scenes: int = field(init=False)

    def __post_init__(self) -> None:
        kinds = _column(self.nodes, "kind").indices.to_numpy()
        self.starts = np.searchsorted(kinds, np.arange(len(KINDS) + 1, dtype=kinds.dtype))
        self.num_scenes = int(self.starts[1])

    @classmethod
    def build(
        cls,
        captions: Iterable[Modifiers],
        base: "RelationGraph | None" = None,
        encoder: str | None = None,
        scratch: Path | None = None,
    ) -> "RelationGraph":
        """Make the graph of some captions, or of some captions and those that another graph was made of.

        Args:
            captions: what each caption names; one that comes twice counts twice.
            base: graph to add to; it stays as it is.
            encoder: embeds the phrases.
            scratch: folder that keeps embeddings as they are made, so that a killed build goes on where it stopped.

        Raises:
            ValueError: if the base was made with another encoder, or there is nothing to put in.
        """
        keys: dict[str, int] = {}
        ends = array("q")
        num_captions = 0
        for caption in captions:
            named = [(kind, _key(kind, phrase)) for text, kind in caption.phrases() if (phrase := normalise(text))]
            rows = {keys.setdefault(key, len(keys)): kind for kind, key in named}
            scenes = [row for row, kind in rows.items() if kind == "scene"]
            for row, kind in rows.items():
                if kind != "scene":
                    for scene in scenes:
                        ends.extend((scene, row))
            num_captions += 1
        edges = np.frombuffer(ends, np.int64).reshape(-1, 2)
        edges = np.column_stack([edges, np.ones(len(edges), np.int64)])
        added = pa.array(list(keys), pa.large_string())
        if base is None:
            return cls._assemble(added, edges, added[:0], None, num_captions, encoder, scratch)
        _check_encoder(encoder_name(base.encoder), encoder, "the graph to extend")
        kinds = _column(base.nodes, "kind").indices.cast(pa.large_string())
        phrases = _column(base.nodes, "phrase")
        there = np.stack([base.column(name).astype(np.int64) for name in EDGE], 1)
        edges[:, :2] += len(phrases)
        return cls._assemble(
            pa.concat_arrays([pc.binary_join_element_wise(kinds, phrases, pa.scalar("", pa.large_string())), added]),
            np.concatenate([there, edges]),
            phrases,
            base.embeddings,
            base.num_captions + num_captions,
            encoder,
            scratch,
        )

    @classmethod
    def from_published(cls, folder: Path, encoder: str | None = None, scratch: Path | None = None) -> "RelationGraph":
        """Read a graph in the published layout (GraphML and JSON lists, see ``collect.graph.published``).

        Embeddings are taken over where a phrase is written as it is here, and a few of them are made again to see that
        they come from the same encoder.

        Raises:
            FileNotFoundError: if a file of the layout is missing.
            ValueError: if its files do not fit together, its embeddings were made with another encoder, or it is empty.
        """
        found = published.read(folder)
        phrases = list(found.vectors)
        if phrases:
            checked = phrases[:: -(-len(phrases) // NUM_CHECKED)]
            again = encode(checked, encoder).astype(np.float32)
            there = np.stack([found.vectors[phrase] for phrase in checked]).astype(np.float32)
            if there.shape != again.shape or ((there * again).sum(1) < SAME).any():
                raise ValueError(
                    f"the embeddings in {folder} were not made with {encoder_name(encoder)}; name the encoder that "
                    "they were made with, or build the graph again from its captions."
                )
        rows = {node: row for row, node in enumerate(found.nodes)}
        edges = [(rows[scene], rows[modifier], count) for (scene, modifier), count in found.edges.items()]
        return cls._assemble(
            pa.array([_key(kind, phrase) for kind, phrase in found.nodes], pa.large_string()),
            np.array(edges, np.int64).reshape(-1, 3),
            pa.array(phrases, pa.large_string()),
            np.stack(list(found.vectors.values())) if phrases else None,
            found.num_captions,
            encoder,
            scratch,
        )

    @classmethod
    def _assemble(
        cls,
        keys: pa.Array,
        edges: NDArray[np.int64],
        known: pa.Array,
        vectors: NDArray[np.float16] | None,
        num_captions: int,
        encoder: str | None,
        scratch: Path | None,
    ) -> "RelationGraph":
        """Sort and merge nodes and edges, and embed the phrases that are not known.

        Args:
            keys: kind and phrase of each node, in any order, perhaps repeatedly.
            edges: ``(E, 3)`` scene, modifier and count, in rows of the keys, perhaps repeatedly.
            known: phrases with vectors, perhaps repeatedly.
            vectors: their embeddings, ``(len(known), D)``.
            num_captions: captions that they come from.
            encoder: embeds the others.
            scratch: folder for embeddings on the way.
        """
        nodes = pc.unique(keys)
        nodes = nodes.take(pc.sort_indices(nodes))
        if not len(nodes) or not nodes[0].as_py().startswith("0"):
            raise ValueError("no caption names a scene, so the graph would be empty.")
        place = pc.index_in(keys, value_set=nodes).to_numpy()
        kinds = pc.utf8_slice_codeunits(nodes, 0, 1).cast(pa.int8())
        phrases = pc.utf8_slice_codeunits(nodes, 1)
        columns = {"scene": place[edges[:, 0]], "modifier": place[edges[:, 1]], "count": edges[:, 2]}
        table = pa.table({name: pa.array(values, pa.int32()) for name, values in columns.items()})
        table = table.group_by(["scene", "modifier"]).aggregate([("count", "sum")])
        table = table.rename_columns(list(columns)).sort_by([("scene", "ascending"), ("modifier", "ascending")])
        distinct = phrases.dictionary_encode()
        at = pc.index_in(distinct.dictionary, value_set=known)
        fresh = encode(distinct.dictionary.filter(pc.is_null(at)).to_pylist(), encoder, scratch)
        embeddings = np.empty((len(nodes), fresh.shape[1]), np.float16)
        spelt = distinct.indices.to_numpy()
        is_fresh = pc.is_null(at).to_numpy(zero_copy_only=False)
        embeddings[is_fresh[spelt]] = fresh[(np.cumsum(is_fresh) - 1)[spelt[is_fresh[spelt]]]]
        if vectors is not None:
            embeddings[~is_fresh[spelt]] = vectors[pc.fill_null(at, 0).to_numpy()[spelt[~is_fresh[spelt]]]]
        return cls(
            pa.table({"kind": pa.DictionaryArray.from_arrays(kinds, list(KINDS)), "phrase": phrases}),
            table.cast(pa.schema([(name, pa.int32()) for name in columns])).combine_chunks(),
            embeddings,
            num_captions,
            encoder,
        )

    def save(self, folder: Path) -> None:
        """Write ``nodes.arrow``, ``edges.arrow`` and ``embeddings.npy`` and, when they are there, ``meta.json``.

        The tables lie in a folder of their own, which ``meta.json`` names. A graph that was there before stays whole
        until ``meta.json`` is replaced, which happens at once, and is removed afterwards.
        """
        written = sorted(int(path.name.removeprefix("tables-")) for path in folder.glob("tables-*"))
        tables = folder / f"tables-{written[-1] + 1 if written else 1}"
        tables.mkdir(parents=True, exist_ok=True)
        for table, name in ((self.nodes, "nodes"), (self.edges, "edges")):
            with pa.OSFile(str(tables / f"{name}.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
        np.save(tables / "embeddings.npy", self.embeddings)
        meta = {
            "schema_version": SCHEMA_VERSION,
            "encoder": encoder_name(self.encoder),
            "dimension": self.embeddings.shape[1],
            "nodes": len(self.nodes),
            "edges": len(self.edges),
            "captions": self.num_captions,
            "tables": tables.name,
        }
        partial = folder / "meta.json.partial"
        partial.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        partial.replace(folder / "meta.json")
        for other in folder.glob("tables-*"):
            if other != tables:
                shutil.rmtree(other)

    @classmethod
    def open(cls, folder: Path, encoder: str | None = None) -> "RelationGraph":
        """Open a saved graph; its tables stay on disk until they are looked at.

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
        tables = folder / meta["tables"]
        try:
            nodes, edges = (_read(tables / f"{name}.arrow") for name in ("nodes", "edges"))
            embeddings = np.load(tables / "embeddings.npy", mmap_mode="c")  # what torch reads must look writable
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder} is not whole ({error}); build it again.") from error
        shape = (meta["nodes"], meta["dimension"])
        if (len(nodes), len(edges), embeddings.shape) != (meta["nodes"], meta["edges"], shape):
            raise ValueError(f"{folder} is not whole: its tables do not have the sizes in meta.json; build it again.")
        return cls(nodes, edges, embeddings, meta["captions"], encoder)

    def column(self, name: str) -> NDArray[np.int32]:
        """A column of the edges, ``(E,)``, where it lies."""
        return np.asarray(_column(self.edges, name).to_numpy())

    def kinds(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The kind of each node, as its place in ``KINDS``."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def phrases(self, rows: NDArray[np.int64]) -> list[str]:
        """The phrase of each node."""
        return list(_column(self.nodes, "phrase").take(pa.array(rows)).to_pylist())

    def retrieve(self, prompts: Sequence[str], settings: Retrieval) -> list[list[Retrieved]]:
        """Choose modifiers for each prompt: the nearest scenes, all that goes with them, then the most fitting.

        Modifiers are chosen one by one by maximal marginal relevance, most relevant first; what is equally good is
        chosen in alphabetical order.
        """
        if not prompts:
            return []
        model = load_encoder(self.encoder)
        vectors = np.asarray(
            model.encode(list(prompts), normalize_embeddings=True, show_progress_bar=False), np.float32
        )
        nearest = self._nearest(vectors, settings.num_scenes)
        return [self._choose(vector, scenes, settings) for vector, scenes in zip(vectors, nearest, strict=True)]

    def _nearest(self, vectors: NDArray[np.float32], num_scenes: int) -> list[NDArray[np.int64]]:
        """The most similar scenes of each prompt, most similar first, by comparing all of them.

        Args:
            vectors: unit vectors of the prompts, ``(P, D)``.
            num_scenes: how many to find.
        """
        found: list[list[int]] = [[] for _ in vectors]
        best = torch.full((len(vectors), 0), -1.0)
        for start in range(0, self.num_scenes, SCENES):
            scenes = torch.from_numpy(self.embeddings[start : min(start + SCENES, self.num_scenes)])
            products = torch.from_numpy(vectors) @ scenes.float().T
            best = torch.cat([best, products], 1)
            best = best.topk(min(num_scenes, best.shape[1])).values
            # How a product of matrices rounds depends on where a row stands, so near-ties are kept and settled below.
            for prompt, scene in torch.nonzero(products >= best[:, -1:] - ROUNDING).numpy():
                found[prompt].append(start + int(scene))
        nearest = []
        for vector, candidates in zip(vectors, found, strict=True):
            cosines = _cosines(self.embeddings[candidates].astype(np.float32), vector)
            order = np.argsort(-cosines, kind="stable")[:num_scenes]
            nearest.append(np.array(candidates, np.int64)[order])
        return nearest

    def _choose(self, vector: NDArray[np.float32], scenes: NDArray[np.int64], settings: Retrieval) -> list[Retrieved]:
        column, modifiers, counts = (self.column(name) for name in EDGE)
        spans = [slice(*np.searchsorted(column, np.array([scene, scene + 1], column.dtype))) for scene in scenes]
        pool, places = np.unique(np.concatenate([modifiers[span] for span in spans]), return_inverse=True)
        seen = np.bincount(places, np.concatenate([counts[span] for span in spans]), len(pool)).astype(np.int64)
        vectors = torch.from_numpy(self.embeddings[pool]).float().numpy()
        scores = np.clip(_cosines(vectors, vector), -1, 1)  # vectors in half precision may be a little long
        fits = np.flatnonzero((settings.min_similarity <= scores) & (scores <= settings.max_similarity))
        pool, vectors, scores, seen = pool[fits], vectors[fits], scores[fits], seen[fits]
        kinds = self.kinds(pool)
        left = np.ones(len(pool), bool)
        repeats = np.zeros(len(pool), np.float32)
        chosen: list[Retrieved] = []
        while left.any() and len(chosen) < settings.num_modifiers:
            gains = (1 - settings.diversity) * scores - settings.diversity * repeats
            best = int(np.where(left, gains, -np.inf).argmax())
            left[best] = False
            [phrase] = self.phrases(pool[[best]])
            if settings.blocks(phrase) or any(phrase == other.phrase for other in chosen):
                continue
            alike = _cosines(vectors, vectors[best])
            repeats = np.maximum(repeats, alike) if chosen else alike
            kind = KINDS[kinds[best]]
            chosen.append(Retrieved(phrase, kind, round(float(scores[best]), 4), int(seen[best])))
            if sum(other.kind == kind for other in chosen) >= settings.max_per_kind:
                left &= kinds != kinds[best]
        return chosen


def encode(phrases: Sequence[str], encoder: str | None, scratch: Path | None = None) -> NDArray[np.float16]:
    """Embed phrases as unit vectors, ``(N, D)`` in half precision.

    Args:
        phrases: texts, each once.
        encoder: Sentence Transformers id or directory.
        scratch: folder that keeps what is embedded; a call with the same phrases goes on from there.
    """
    model = load_encoder(encoder)
    dimension = model.get_embedding_dimension() or 0
    if scratch is None:
        chunks = [np.zeros((0, dimension), np.float16), *_chunks(phrases, encoder, 0)]
        return np.concatenate(chunks)
    scratch.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256("\n".join([encoder_name(encoder), *phrases]).encode()).hexdigest()[:16]
    path = scratch / f"embeddings-{digest}.f16"
    with path.open("ab") as file:
        done = file.tell() // (2 * dimension) // CHUNK * CHUNK  # a chunk that was cut short is made again
        file.truncate(2 * dimension * done)
        for chunk in _chunks(phrases, encoder, done):
            file.write(chunk.tobytes())
            file.flush()
    return np.fromfile(path, np.float16).reshape(len(phrases), dimension)


def _chunks(phrases: Sequence[str], encoder: str | None, start: int) -> Iterator[NDArray[np.float16]]:
    model = load_encoder(encoder)
    with tqdm(desc="embedding phrases", total=len(phrases), initial=start, delay=10) as progress:
        for at in range(start, len(phrases), CHUNK):
            chunk = phrases[at : at + CHUNK]
            vectors = model.encode(chunk, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
            yield np.asarray(vectors, np.float16)
            progress.update(len(chunk))


def _cosines(vectors: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines of unit vectors, ``(N, D)`` and ``(D,)``; the same vector gives the same cosine in any row."""
    return np.asarray(np.einsum("nd,d->n", vectors, vector))


def _key(kind: str, phrase: str) -> str:
    """A node as one text that sorts by kind and phrase."""
    return f"{KINDS.index(kind)}{phrase}"


def _read(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _column(table: pa.Table, name: str) -> pa.Array:
    """A column in one piece; one that is in one piece is not copied."""
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


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
    export: Path | None = None,
    language_model: LanguageModel | None = None,
    few_shot: bool = False,
    encoder: str | None = None,
    retrieval: Retrieval = Retrieval(),
    limit: int | None = None,
    backends: dict[str, Any] | None = None,
    logger: WandbLogger | None = None,
) -> None:
    """Build, extend, import or open a relation graph, export it, and show the modifiers it has for some prompts.

    Captions that are left out are listed in ``left_out.txt``. A build that is killed goes on where it stopped when it
    is started again; with another language model it starts afresh.

    Args:
        output: folder of the graph; with neither captions nor base, it is opened.
        captions: ``.csv`` with the published columns ``Input, verb_obj_word, scenario_word, place``, or ``.jsonl`` of
            caption records, which the language model takes apart.
        prompts: ``.jsonl`` of prompt records, ``.txt`` with a prompt a line, or ``.csv``; their modifiers are written
            to ``retrieved.jsonl``, the settings they were chosen by to ``retrieval.json``.
        base: folder of a graph to start from, in this layout or the published one (GraphML and JSON lists); it may be
            the output folder. A caption that is in both counts twice.
        export: folder to write the graph to in the published layout.
        language_model: takes captions apart; needed for ``.jsonl`` only.
        few_shot: show the language model worked examples; one trained on the template needs none.
        encoder: Sentence Transformers id or directory; by default the packaged all-MiniLM-L6-v2.
        retrieval: how modifiers are chosen.
        limit: use only so many prompts, from the start of the file.
        backends: what the language model is, as JSON, so that answers of two are not mixed; the command line fills it
            in.
        logger: a W&B run to log to.

    Raises:
        FileNotFoundError: if a file or a graph does not exist.
        ValueError: if nothing in a file can be read, or a graph was made with another encoder.
    """
    asked = read_prompts(prompts, limit) if prompts is not None else []
    if captions is not None and not captions.is_file():
        raise FileNotFoundError(f"{captions} does not exist; expected captions as .csv or .jsonl.")
    if base is not None and not published.is_published(base) and not (base / "meta.json").is_file():
        raise FileNotFoundError(f"{base} holds no finished graph, neither in this layout nor in the published one.")
    if captions is None and base is not None and not published.is_published(base):
        raise ValueError(f"{base} cannot be extended without captions; name some, or open it as output.")
    if export is not None and export.exists() and any(export.iterdir()):
        raise ValueError(f"{export} is not empty; name a new folder to export to.")
    console = Console(soft_wrap=True)
    with tracking.start(logger, "graph") as tracked:
        if captions is None and base is None:
            built = RelationGraph.open(output, encoder)
            faults: list[str] = []
        else:
            built, faults = _build(output, captions, base, language_model, few_shot, encoder, backends)
        sizes = dict(zip(KINDS, np.diff(built.starts).tolist(), strict=True))
        console.print(
            f"{output}: {', '.join(f'{size} x {kind}' for kind, size in sizes.items())}; {len(built.edges)} edges, "
            f"{len(faults)} captions left out"
        )
        tracked.log({f"graph/{kind}": size for kind, size in sizes.items()})
        tracked.log({"graph/edges": len(built.edges), "graph/left_out": len(faults)})
        if export is not None:
            rows = np.arange(len(built.nodes))
            nodes = [(KINDS[kind], phrase) for kind, phrase in zip(built.kinds(rows), built.phrases(rows), strict=True)]
            published.write(export, nodes, [built.column(name) for name in EDGE], built.embeddings, built.num_captions)
            console.print(f"{export}: the same graph in the published layout")
        if asked:
            chosen = built.retrieve([prompt.prompt for prompt in asked], retrieval)
            rows_shown = [
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
            (output / "retrieval.json").write_text(json.dumps(asdict(retrieval), indent=2) + "\n", encoding="utf-8")
            tracked.log({"graph/modifiers_per_prompt": len(rows_shown) / len(asked)})
            tracked.log_table("graph/retrieved", ["prompt", "modifier", "kind", "similarity", "count"], rows_shown)
            _show(console, [prompt.prompt for prompt in asked], chosen)
            without = sum(not modifiers for modifiers in chosen)
            if without:
                console.print(
                    f"{without} of {len(asked)} prompts have no modifier with a similarity in "
                    f"[{retrieval.min_similarity}, {retrieval.max_similarity}]; a small graph needs a lower minimum."
                )


def _build(
    output: Path,
    captions: Path | None,
    base: Path | None,
    language_model: LanguageModel | None,
    few_shot: bool,
    encoder: str | None,
    backends: dict[str, Any] | None,
) -> tuple[RelationGraph, list[str]]:
    """Build a graph and save it; what a killed build had done is in ``unfinished`` until then."""
    scratch = output / "unfinished"
    load_encoder(encoder)  # one that is not there should fail before the captions are read, as should a wrong base
    built = None
    if base is not None and published.is_published(base):
        built = RelationGraph.from_published(base, encoder, scratch)
    elif base is not None:
        built = RelationGraph.open(base, encoder)
    faults: list[str] = []
    if captions is not None:
        found, faults = _take_apart(captions, language_model, few_shot, scratch, backends)
        built = RelationGraph.build(found, built, encoder, scratch)
    assert built is not None
    built.save(output)
    shutil.rmtree(scratch)
    (output / "left_out.txt").unlink(missing_ok=True)
    if faults:
        (output / "left_out.txt").write_text("\n".join(faults) + "\n", encoding="utf-8")
    return built, faults


def _take_apart(
    path: Path,
    language_model: LanguageModel | None,
    few_shot: bool,
    scratch: Path,
    backends: dict[str, Any] | None,
) -> tuple[Sequence[Modifiers], list[str]]:
    if path.suffix == ".csv":
        return read_csv(path)
    if path.suffix != ".jsonl":
        raise ValueError(f"{path} is of no known kind; expected captions as .csv or .jsonl.")
    captions = read_records(path, Caption)
    if language_model is None:
        raise ValueError(f"{path} holds whole captions; name a language_model that takes them apart.")
    return extract(captions, language_model, scratch, few_shot, backends)


def _show(console: Console, prompts: Sequence[str], chosen: Sequence[Sequence[Retrieved]]) -> None:
    table = Table("prompt", "modifier", "kind", "similarity", "seen")
    for prompt, modifiers in zip(prompts, chosen, strict=True):
        rows = [(m.phrase, m.kind, f"{m.similarity:.2f}", str(m.count)) for m in modifiers] or [("-", "", "", "")]
        for number, row in enumerate(rows):
            table.add_row("" if number else prompt, *row)
    console.print(table)
