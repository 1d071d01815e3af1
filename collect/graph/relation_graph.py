"""The relation graph: which subjects, actions and atmospheres go with which scenes in a video model's captions.

N nodes, E edges, D dimensions, P prompts. A node is a phrase of one kind; kinds are separate namespaces. An edge says
how often a modifier was seen in a scene. Nodes are sorted by kind and phrase and edges by node, so a graph is the same
however its captions came in, what belongs to a scene lies together, and a graph on disk is used where it lies: opening
one reads next to nothing.
"""

import re
import shutil
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, with_config
from typing_extensions import TypedDict

from collect.backends.encoders import encoder_name
from collect.graph import published
from collect.graph.embeddings import encode
from collect.graph.modifiers import KINDS, Modifiers, normalise
from data_modules.schema import OPEN, STRICT, read_json, write_json
from data_modules.text import quoted

SCHEMA_VERSION = 2

TABLES = {"nodes.arrow", "edges.arrow", "embeddings.npy"}
EDGE = ("scene", "modifier", "count")

MADE_BY = "`python -m collect graph`"
NODES = pa.schema([("kind", pa.dictionary(pa.int8(), pa.string())), ("phrase", pa.large_string())])
EDGES = pa.schema([(name, pa.int32()) for name in EDGE])

NUM_CHECKED = 8  # embeddings of an imported graph that are made again
SAME = 0.99  # cosine above which two embeddings of a phrase come from one encoder, rounded differently


@with_config(OPEN)
class Version(TypedDict):
    """The first thing that is read of a graph."""

    schema_version: int


@with_config(STRICT)
class Meta(Version):
    """What ``meta.json`` says of a graph: which encoder and sizes, and the folder of its tables."""

    encoder: str
    dimension: int
    nodes: int
    edges: int
    captions: int
    tables: Annotated[str, Field(pattern=r"^tables-[0-9]+$")]


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
        kinds = column_of(self.nodes, "kind").indices.to_numpy()
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
            scratch: folder that keeps embeddings as they are made, so that a killed build resumes where it stopped.

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
        kinds = column_of(base.nodes, "kind").indices.cast(pa.large_string())
        phrases = column_of(base.nodes, "phrase")
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
        earlier = [path for path in folder.glob("tables-*") if re.fullmatch(r"tables-[0-9]+", path.name)]
        last = max((int(path.name.removeprefix("tables-")) for path in earlier), default=0)
        tables = folder / f"tables-{last + 1}"
        tables.mkdir(parents=True, exist_ok=True)
        for table, name in ((self.nodes, "nodes"), (self.edges, "edges")):
            with pa.OSFile(str(tables / f"{name}.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
        np.save(tables / "embeddings.npy", self.embeddings)
        meta: Meta = {
            "schema_version": SCHEMA_VERSION,
            "encoder": encoder_name(self.encoder),
            "dimension": self.embeddings.shape[1],
            "nodes": len(self.nodes),
            "edges": len(self.edges),
            "captions": self.num_captions,
            "tables": tables.name,
        }
        write_json(folder / "meta.json", meta)
        for other in earlier:
            if {path.name for path in other.iterdir()} <= TABLES:
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
        version = read_json(path, Version, MADE_BY)["schema_version"]
        if version != SCHEMA_VERSION:
            raise ValueError(f"{folder} has version {version}, not {SCHEMA_VERSION}; build it again.")
        meta = read_json(path, Meta, MADE_BY)
        _check_encoder(meta["encoder"], encoder, str(folder))
        tables = folder / meta["tables"]
        try:
            nodes, edges = _read(tables / "nodes.arrow", NODES), _read(tables / "edges.arrow", EDGES)
            embeddings = _matrix(tables / "embeddings.npy", (meta["nodes"], meta["dimension"]))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ValueError(f"{folder} is not whole ({quoted(str(error), 200)}); build it again.") from error
        if (len(nodes), len(edges)) != (meta["nodes"], meta["edges"]):
            raise ValueError(f"{folder} is not whole: its tables do not have the sizes in meta.json; build it again.")
        fault = _fault(nodes, edges)
        if fault is not None:
            raise ValueError(f"{folder} is not whole: {fault}; build it again.")
        return cls(nodes, edges, embeddings, meta["captions"], encoder)

    def column(self, name: str) -> NDArray[np.int32]:
        """A column of the edges, ``(E,)``, where it lies."""
        return np.asarray(column_of(self.edges, name).to_numpy())

    def kinds(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The kind of each node, as its place in ``KINDS``."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def phrases(self, rows: NDArray[np.int64]) -> list[str]:
        """The phrase of each node."""
        return list(column_of(self.nodes, "phrase").take(pa.array(rows)).to_pylist())


def _key(kind: str, phrase: str) -> str:
    """A node as one text that sorts by kind and phrase."""
    return f"{KINDS.index(kind)}{phrase}"


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    """A table where it lies on disk, once Arrow has seen that nothing in it points outside of it."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    if not table.schema.equals(schema):
        raise ValueError(f"{path.name} has the columns {table.schema.to_string()!r}, not {schema.to_string()!r}")
    table.validate(full=True)
    if any(column.null_count for column in table.columns):
        raise ValueError(f"{path.name} has rows without a value")
    return table


def _matrix(path: Path, shape: tuple[int, int]) -> NDArray[np.float16]:
    """A matrix where it lies on disk, if the file is what ``np.save`` writes for one of this shape."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": shape})
    start = header.getvalue()
    with path.open("rb") as file:
        found = file.read(len(start))
    if found != start or path.stat().st_size != len(start) + 2 * shape[0] * shape[1]:
        raise ValueError(f"{path.name} is no matrix of shape {shape} in half precision")
    return np.memmap(path, np.float16, "c", len(start), shape)  # what torch reads must look writable


def _fault(nodes: pa.Table, edges: pa.Table) -> str | None:
    """What does not fit together in tables that are each in order."""
    kind = column_of(nodes, "kind")
    kinds, names = kind.indices.to_numpy(), kind.dictionary.to_pylist()
    if names != list(KINDS) or (np.diff(kinds) < 0).any():
        return f"its nodes are not sorted by the kinds {', '.join(KINDS)}"
    num_scenes = int(np.searchsorted(kinds, 1))
    scene, modifier, count = (column_of(edges, name).to_numpy() for name in EDGE)
    limits = ((scene, 0, num_scenes), (modifier, num_scenes, len(nodes)), (count, 1, np.iinfo(np.int32).max + 1))
    for name, (values, least, end) in zip(EDGE, limits, strict=True):
        if len(values) and not least <= values.min() <= values.max() < end:
            return f"edges have the {name} {values.min()} to {values.max()}, which must be in [{least}, {end})"
    return None if (np.diff(scene) >= 0).all() else "its edges are not sorted"


def column_of(table: pa.Table, name: str) -> pa.Array:
    """A column in one piece; one that is in one piece is not copied."""
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _check_encoder(made_with: str, encoder: str | None, what: str) -> None:
    if made_with != encoder_name(encoder):
        raise ValueError(
            f"{what} was made with the encoder {made_with}, not {encoder_name(encoder)}; "
            "name the same encoder, or build the graph again from its captions."
        )
