"""The relation graph from the command line: build, extend, import, export, look up."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import WandbLogger
from rich.table import Table

from collect import tracking
from collect.backends.encoders import load_encoder
from collect.console import PlainConsole
from collect.graph import published
from collect.graph.modifiers import KINDS, Modifiers, extract, read_csv
from collect.graph.relation_graph import EDGE, RelationGraph
from collect.graph.retrieval import Retrieval, Retrieved, retrieve
from collect.prompts import read_captions, read_prompts
from collect.protocols import LanguageModel
from data_modules.exports import replaced, require_replaceable
from data_modules.records import to_line
from data_modules.schema import write_json

SCRATCH = ("modifiers-*.jsonl", "embeddings-*.f16")  # what a killed build leaves, for the next


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

    Captions that are left out are listed in ``left_out.txt``. A build that is killed resumes where it stopped when it
    is started again; with another language model it starts afresh.

    Args:
        output: folder of the graph; with neither captions nor base, it is opened.
        captions: ``.csv`` with the published columns ``Input, verb_obj_word, scenario_word, place``, or ``.jsonl`` of
            caption records or ``.txt`` with a caption a line, from which the language model extracts modifiers.
        prompts: ``.jsonl`` of prompt records, ``.txt`` with a prompt a line, or ``.csv``; their modifiers are written
            to ``retrieved.jsonl``, the settings they were chosen by to ``retrieval.json``.
        base: folder of a graph to start from, in this layout or the published one (GraphML and JSON lists); it may be
            the output folder. A caption that is in both counts twice.
        export: new folder to write the graph to in the published layout, or one that an export wrote.
        language_model: extracts modifiers from captions; not needed for ``.csv``.
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
        raise FileNotFoundError(f"{captions} does not exist; expected captions as .csv, .jsonl or .txt.")
    if base is not None and not published.is_published(base) and not (base / "meta.json").is_file():
        raise FileNotFoundError(f"{base} holds no finished graph, neither in this layout nor in the published one.")
    if captions is None and base is not None and not published.is_published(base):
        raise ValueError(f"{base} cannot be extended without captions; name some, or open it as output.")
    if export is not None:
        require_replaceable(export)
    console = PlainConsole(soft_wrap=True)
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
            edges = [built.column(name) for name in EDGE]
            with replaced(export) as folder:
                published.write(folder, nodes, edges, built.embeddings, built.num_captions)
            console.print(f"{export}: the same graph in the published layout")
        if asked:
            chosen = retrieve(built, [prompt.prompt for prompt in asked], retrieval)
            rows_shown = [
                (prompt.prompt, found.phrase, found.kind, found.similarity, found.count)
                for prompt, modifiers in zip(asked, chosen, strict=True)
                for found in modifiers
            ]
            lines = [
                to_line(
                    {
                        "prompt_id": prompt.id,
                        "prompt": prompt.prompt,
                        "modifiers": [asdict(found) for found in modifiers],
                    }
                )
                for prompt, modifiers in zip(asked, chosen, strict=True)
            ]
            (output / "retrieved.jsonl").write_text("".join(lines), encoding="utf-8")
            write_json(output / "retrieval.json", asdict(retrieval))
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
        found, faults = _extract(captions, language_model, few_shot, scratch, backends)
        built = RelationGraph.build(found, built, encoder, scratch)
    assert built is not None
    built.save(output)
    for pattern in SCRATCH:
        for path in scratch.glob(pattern):
            path.unlink()
    if not any(scratch.iterdir()):
        scratch.rmdir()
    (output / "left_out.txt").unlink(missing_ok=True)
    if faults:
        (output / "left_out.txt").write_text("\n".join(faults) + "\n", encoding="utf-8")
    return built, faults


def _extract(
    path: Path,
    language_model: LanguageModel | None,
    few_shot: bool,
    scratch: Path,
    backends: dict[str, Any] | None,
) -> tuple[Sequence[Modifiers], list[str]]:
    if path.suffix == ".csv":
        return read_csv(path)
    captions = read_captions(path)
    if language_model is None:
        raise ValueError(f"{path} holds whole captions; name a language_model that extracts their modifiers.")
    return extract(captions, language_model, scratch, few_shot, backends)


def _show(console: PlainConsole, prompts: Sequence[str], chosen: Sequence[Sequence[Retrieved]]) -> None:
    table = Table("prompt", "modifier", "kind", "similarity", "seen")
    for prompt, modifiers in zip(prompts, chosen, strict=True):
        rows = [(m.phrase, m.kind, f"{m.similarity:.2f}", str(m.count)) for m in modifiers] or [("-", "", "", "")]
        for number, row in enumerate(rows):
            table.add_row("" if number else prompt, *row)
    console.print(table)
