"""Whatever is in a file, a reader gives a result or an error of ours that names the file."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collect.graph.modifiers import parse_answer, read_csv
from collect.graph.published import read as read_published
from collect.graph.relation_graph import RelationGraph
from collect.prompts import read_captions, read_prompts
from collect.search.schema import DATABASE
from collect.search.store import Store
from collect.search.trajectories import read_seed_scores, read_trajectories, read_videos
from collect.suites.benchmark import numbered_lines, read_json
from collect.suites.benchmark import read_csv as read_suite_csv
from collect.verifiers.questions import parse_verdict
from data_modules.records import Caption, Choice, Evidence, Preference, Prompt, Result, Rewrite, read_records
from train.cards import _read_gate
from train.cli import load_checkpoint

TURN = '[{"role": "user", "content": "a b"}]'
RECORDS = {
    Caption: '{"id": "a", "caption": "a red box falls", "source": "s"}',
    Prompt: '{"id": "a", "prompt": "a red box", "task": null}',
    Rewrite: f'{{"id": "a", "prompt": {TURN}, "completion": {TURN}}}',
    Choice: f'{{"id": "a", "prompt_id": "b", "prompt": {TURN}, "label": "A", "scores": {{"x": 0.5}}}}',
    Preference: f'{{"id": "a", "prompt": {TURN}, "chosen": {TURN}, "rejected": {TURN}, "margin": 0.1, "kind": "k"}}',
    Evidence: '{"id": "a", "prompt_id": "b", "texts": {"raw": "t"}, "origins": {}, "seeds": [1], "scores": {"r": {}}}',
    Result: '{"prompt_id": "a", "method": "m", "prompt": "p", "rewrite": "r", "seed": 1, "video": "v", "scores": {}}',
}
PUBLISHED_CSV = "Input,verb_obj_word,scenario_word,place\na,\"['b']\",\"['c' 'd']\",\"['e']\"\n"

Reader = Callable[[Path], object]
READERS: dict[str, tuple[str, str, Reader]] = {
    **{
        f"{kind.__name__} records": ("x.jsonl", line + "\n" + line, lambda path, kind=kind: read_records(path, kind))
        for kind, line in RECORDS.items()
    },
    "prompts.jsonl": ("x.jsonl", RECORDS[Prompt], read_prompts),
    "prompts.csv": ("x.csv", 'prompt,task\n"a, ""b""",it falls\nc,\n', read_prompts),
    "prompts.txt": ("x.txt", "a red box\nthe sea\n", read_prompts),
    "captions.csv": ("x.csv", 'caption\n"a\nb"\nc\n', read_captions),
    "captions.txt": ("x.txt", "a red box\nthe sea\n", read_captions),
    "graph.csv": ("x.csv", PUBLISHED_CSV, read_csv),
    "suite lines": ("x.txt", "a red box\n", numbered_lines),
    "suite JSON": ("x.json", '[{"prompt": "a"}]', read_json),
    "suite JSON lines": ("x.jsonl", '{"prompt": "a"}\n{"prompt": "b"}\n', lambda path: read_json(path, by_line=True)),
    "suite CSV": ("x.csv", "caption,states\na,b\n", lambda path: read_suite_csv(path, ["caption"])),
    "rewrites": (
        "x.jsonl",
        '{"candidates": [{"origin": "refactored", "gate": {"passed": true}}]}',
        _read_gate,
    ),
}
# A few bytes that mean something to one reader or another.
MEANINGFUL = [
    *(b'"', b'""', b",", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe2\x80\xa8", b"\\ud800"),
    *(b"null", b"NaN", b"1e999", b"[" * 300, b"{", b"}", b"]", b"1", b"true", b"-1", b"[/red]", b"\x1b[31m", b"'"),
]


@st.composite
def edited(draw: st.DrawFn, data: bytes) -> bytes:
    """Some bytes, changed here and there."""
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + draw(st.sampled_from([0, 1, 4, 1000])))))
        data = data[:start] + draw(st.sampled_from(MEANINGFUL) | st.binary(max_size=8)) + data[end:]
    return data


def refusal(read: Callable[[], object]) -> Exception | None:
    """The error that a reader ends in, if any."""
    try:
        read()
    except Exception as error:  # whatever it is, it is looked at
        return error
    return None


def check(read: Callable[[], object], named: str | None) -> None:
    error = refusal(read)
    assert error is None or type(error) in (ValueError, FileNotFoundError, OSError), repr(error)
    assert error is None or named is None or named in str(error), repr(error)
    assert error is None or "\x1b" not in str(error)
    assert error is None or len(str(error)) < 2000


def fuzzed(num_examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """How a property is tried."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=num_examples, deadline=None, suppress_health_check=checks)


def read_text_files(name: str, data: st.DataObject, folder: Path) -> None:
    file, whole, read = READERS[name]
    path = folder / file
    path.write_bytes(data.draw(st.one_of(edited(whole.encode()), st.binary(max_size=50)), "content"))
    check(lambda: read(path), str(path))


@pytest.mark.parametrize("name", READERS)
@fuzzed(30)
@given(data=st.data())
def test_text_files_are_read_or_refused(tmp_path: Path, name: str, data: st.DataObject) -> None:
    read_text_files(name, data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@fuzzed(3000)
@given(data=st.data())
def test_text_files_are_read_or_refused_at_length(tmp_path: Path, name: str, data: st.DataObject) -> None:
    read_text_files(name, data, tmp_path)


ANSWER = '```json\n{"scene": ["a beach"], "subject": ["dog"], "action": [], "atmosphere": "warm"}\n```'
VERDICT = '{"answers": ["yes", "no"], "score": 4, "critique": "the box is blue"}'


@fuzzed(100)
@given(st.text(max_size=50) | edited(ANSWER.encode()).map(lambda data: data.decode(errors="replace")))
def test_what_a_language_model_answers_is_read_or_refused(answer: str) -> None:
    check(lambda: parse_answer(answer, "id"), None)


@fuzzed(100)
@given(st.text(max_size=50) | edited(VERDICT.encode()).map(lambda data: data.decode(errors="replace")))
def test_what_a_judge_answers_is_read_or_refused(answer: str) -> None:
    check(lambda: parse_verdict(answer, ["is it?", "was it?"], False), None)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    (folder / "captions.csv").write_text(PUBLISHED_CSV + "f,\"['g','b']\",\"['h']\",\"['e','i']\"\n")
    RelationGraph.build(read_csv(folder / "captions.csv")[0]).save(folder / "graph")
    return folder / "graph"


def use(folder: Path) -> None:
    built = RelationGraph.open(folder)
    rows = torch.arange(len(built.nodes)).numpy()
    built.phrases(rows)
    built.kinds(rows)
    built.phrases(built.column("modifier").astype(int))
    RelationGraph.build([], built)


@pytest.mark.parametrize("name", ["meta.json", "nodes.arrow", "edges.arrow", "embeddings.npy"])
@fuzzed(40)
@given(data=st.data())
def test_a_graph_is_opened_or_refused(tmp_path: Path, graph: Path, name: str, data: st.DataObject) -> None:
    folder = tmp_path / "graph"
    shutil.copytree(graph, folder, dirs_exist_ok=True)
    (path,) = folder.rglob(name)
    path.write_bytes(data.draw(edited(path.read_bytes())))
    check(lambda: use(folder), str(folder))


@pytest.mark.parametrize("values", [[-5], [2147483647], [0], None])
@pytest.mark.parametrize("column", ["scene", "modifier", "count"])
def test_edges_that_point_nowhere_are_named(tmp_path: Path, graph: Path, column: str, values: list[int] | None) -> None:
    folder = Path(shutil.copytree(graph, tmp_path / "graph"))
    (path,) = folder.rglob("edges.arrow")
    table = pa.ipc.open_file(path).read_all()
    changed = (values or [None]) + table[column].to_pylist()[1:]
    table = table.set_column(table.column_names.index(column), column, pa.array(changed, pa.int32()))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    if (column, values) not in (("scene", [0]), ("count", [2147483647])):  # which may be
        with pytest.raises(ValueError, match=r"graph is not whole.*; build it again"):
            use(folder)


PUBLISHED = [
    *("data_info.json", "place_to_idx.json", "place_embed.json", "place_in_sentence.json"),
    *("verb_to_idx.json", "verb_words_embed.json", "graph_place_verb.graphml"),
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, graph: Path) -> Path:
    from collect.graph.build import graph as command

    folder = tmp_path_factory.mktemp("published") / "published"
    command(graph, export=folder)
    return folder


def read_harmed(folder: Path, harmed: Path, name: str, content: bytes) -> None:
    shutil.copytree(folder, harmed, dirs_exist_ok=True)
    (harmed / name).write_bytes(content)
    check(lambda: read_published(harmed), str(harmed))


@pytest.mark.parametrize("name", PUBLISHED)
@fuzzed(25)
@given(data=st.data())
def test_a_published_graph_is_read_or_refused(tmp_path: Path, published: Path, name: str, data: st.DataObject) -> None:
    read_harmed(published, tmp_path / "harmed", name, data.draw(edited((published / name).read_bytes())))


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("content", ["[]", "3", "null", '{"e": null}', '{"e": [[1]]}', "[" * 5000, '{"e": "x"}', ""])
def test_a_published_file_of_another_kind_is_refused(tmp_path: Path, published: Path, name: str, content: str) -> None:
    read_harmed(published, tmp_path / "harmed", name, content.encode())


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    with Store(folder, {"rounds": 1}) as store:
        store.add_prompts([Prompt(str(number), f"prompt {number}") for number in range(300)])
        store.finish()
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        database.execute("PRAGMA journal_mode = DELETE")
    return folder


def read_store(stored: Path, harmed: Path, data: st.DataObject) -> None:
    shutil.rmtree(harmed, ignore_errors=True)
    shutil.copytree(stored, harmed)
    path = harmed / DATABASE
    path.write_bytes(data.draw(edited(path.read_bytes())))
    for read in (read_trajectories, read_seed_scores, read_videos, lambda folder: Store(folder, {"rounds": 1}).close()):
        check(lambda read=read: read(harmed), str(harmed))


@fuzzed(40)
@given(data=st.data())
def test_a_store_is_read_or_refused(tmp_path: Path, stored: Path, data: st.DataObject) -> None:
    read_store(stored, tmp_path / "harmed", data)


@pytest.mark.slow
@fuzzed(2000)
@given(data=st.data())
def test_a_store_is_read_or_refused_at_length(tmp_path: Path, stored: Path, data: st.DataObject) -> None:
    read_store(stored, tmp_path / "harmed", data)


WHOLE = {"global_step": 1, "state_dict": {"a": torch.zeros(2)}, "callbacks": {"x": {}}}


@fuzzed(40)
@given(data=st.data())
def test_a_checkpoint_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    torch.save(WHOLE, tmp_path / "last.ckpt")
    (tmp_path / "last.ckpt").write_bytes(data.draw(edited((tmp_path / "last.ckpt").read_bytes())))
    check(lambda: load_checkpoint(tmp_path / "last.ckpt"), str(tmp_path / "last.ckpt"))


@pytest.mark.parametrize(
    "harm",
    [
        {"global_step": "1"},
        {"state_dict": []},
        {"state_dict": {"a": 1}},
        {"callbacks": []},
        {"callbacks": {"x": 1}},
        {"global_step": None},
    ],
    ids=json.dumps,
)
def test_a_checkpoint_s_parts_are_what_they_must_be(tmp_path: Path, harm: dict[str, object]) -> None:
    torch.save(WHOLE | harm, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=rf"last.ckpt is not a Checkpoint: {next(iter(harm))}.*fit` wrote"):
        load_checkpoint(tmp_path / "last.ckpt")
    torch.save({key: value for key, value in WHOLE.items() if key not in harm}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=rf"it lacks {next(iter(harm))}"):
        load_checkpoint(tmp_path / "last.ckpt")
