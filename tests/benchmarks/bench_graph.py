"""A relation graph of a large caption corpus: how long it takes to open and to answer, and in how much memory.

``make bench`` (or ``pytest -m bench tests/benchmarks/bench_graph.py``) writes a graph of made-up phrases and random
unit vectors, then opens it in a fresh process and retrieves modifiers for 64 prompts with the real encoder. Scenes are
as unevenly popular as Zipf's law has it, and prompts ask for scenes as often as captions show them: each is placed at
three scenes drawn in proportion to their edges. ``NUM_PHRASES`` and ``NUM_EDGES`` in the environment change the size.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from collect.backends.encoders import load_encoder
from collect.graph.modifiers import KINDS
from collect.graph.relation_graph import RelationGraph

pytestmark = pytest.mark.bench
NUM_PHRASES = int(os.environ.get("NUM_PHRASES", 2_000_000))
NUM_EDGES = int(os.environ.get("NUM_EDGES", 10_000_000))
NUM_PROMPTS = 64
DIMENSION = 384
POPULARITY = 0.75  # exponent of Zipf's law
SUBJECTS = ("dog", "cook", "child", "dancer", "train", "fox", "robot", "surfer")
DEEDS = ("running", "waiting", "singing", "turning round", "standing still", "jumping", "working", "sleeping")
PROMPTS = [f"a {subject} {deed}" for subject in SUBJECTS for deed in DEEDS]

MEASURE = """
import sys, time
from pathlib import Path
import psutil
from rich.console import Console
from rich.table import Table
from collect.backends.encoders import load_encoder
from collect.graph.relation_graph import RelationGraph, Retrieval

folder, prompts = Path(sys.argv[1]), sys.argv[2:]
start = time.perf_counter()
load_encoder().encode(["warm-up"])
encoder = time.perf_counter() - start
start = time.perf_counter()
graph = RelationGraph.open(folder)
opened = time.perf_counter() - start
seconds, processor = [], []
for _ in range(5):
    start, used = time.perf_counter(), time.process_time()
    found = retrieve(graph, prompts, Retrieval(min_similarity=-1.0, max_similarity=1.0))
    seconds.append(time.perf_counter() - start)
    processor.append(time.process_time() - used)
assert all(len(modifiers) == 5 for modifiers in found)
memory = psutil.Process().memory_info()
table = Table("measured", "value")
table.add_row("phrases, edges", f"{len(graph.nodes):,}, {len(graph.edges):,}")
table.add_row("scenes, all of them compared", f"{graph.num_scenes:,}")
table.add_row("load the encoder, s", f"{encoder:.2f}")
table.add_row("open the graph, s", f"{opened:.3f}")
table.add_row(f"first batch of {len(prompts)} prompts, s", f"{seconds[0]:.2f}")
table.add_row("median of five batches, s", f"{sorted(seconds)[2]:.2f}")
table.add_row("the same in processor time, s", f"{sorted(processor)[2]:.2f}")
table.add_row("resident at the end, GiB", f"{memory.rss / 2**30:.2f}")
Console(width=100).print(table)
"""


def unit_vectors(count: int, rng: np.random.Generator) -> NDArray[np.float16]:
    vectors = np.empty((count, DIMENSION), np.float16)
    for start in range(0, count, 65536):
        rows = rng.standard_normal((min(65536, count - start), DIMENSION), np.float32)
        vectors[start : start + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return vectors


def made_up() -> RelationGraph:
    rng = np.random.default_rng(0)
    kinds = np.sort(rng.integers(0, len(KINDS), NUM_PHRASES).astype(np.int8))
    phrases = pa.array([f"phrase {number:07d} of five words" for number in range(NUM_PHRASES)], pa.large_string())
    num_scenes = int((kinds == 0).sum())
    shares = np.arange(1, num_scenes + 1) ** -POPULARITY
    scenes = rng.permutation(num_scenes)[
        np.searchsorted(shares.cumsum() / shares.sum(), rng.random(int(1.2 * NUM_EDGES)))
    ]
    modifiers = rng.integers(num_scenes, NUM_PHRASES, len(scenes))
    pairs = np.unique(scenes * NUM_PHRASES + modifiers)
    pairs = np.sort(rng.choice(pairs, min(NUM_EDGES, len(pairs)), replace=False))
    scenes, modifiers = np.divmod(pairs, NUM_PHRASES)
    columns = {"scene": scenes, "modifier": modifiers, "count": rng.integers(1, 100, len(pairs))}
    embeddings = unit_vectors(NUM_PHRASES, rng)
    wanted = rng.choice(scenes, (NUM_PROMPTS, 3))
    for prompt, vector in enumerate(load_encoder().encode(PROMPTS)):
        embeddings[wanted[prompt]] = vector
    return RelationGraph(
        pa.table({"kind": pa.DictionaryArray.from_arrays(pa.array(kinds), list(KINDS)), "phrase": phrases}),
        pa.table({name: pa.array(values, pa.int32()) for name, values in columns.items()}),
        embeddings,
        num_captions=NUM_EDGES,
    )


def test_a_large_graph_opens_and_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up().save(tmp_path)
    with capsys.disabled():
        subprocess.run([sys.executable, "-c", MEASURE, tmp_path, *PROMPTS], check=True)
