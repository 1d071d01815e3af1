"""Labelling pairs of rewrites by their videos, and measuring who chooses from them."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import collect.__main__
from collect.backends.transformers_lm import TransformersLM
from collect.evaluation.choice import measure, paired
from collect.examples.labels import labels
from collect.protocols import Verdict
from collect.rewriters import Discriminator, RAPORewriter
from data_modules.records import Choice, Prompt, read_records, write_records
from data_modules.templates import CHOICE_LABELS, choose
from tests.collect.fakes import FakeGate, FakeGenerator, FakeVerifier

PROMPTS = [
    Prompt(str(index), text)
    for index, text in enumerate(f"a {word}" for word in ["ant", "bee", "cow", "dog", "elk", "fly"])
]


class Writer:
    """Appends a text of its own to each prompt."""

    def __init__(self, ending: str, *, alone: Sequence[str] = ()) -> None:
        self.ending = ending
        self.alone = alone  # prompts given back

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        return [p.prompt if p.prompt in self.alone else p.prompt + self.ending for p in prompts]


def label(folder: Path, generator: FakeGenerator | None = None, **changes: object) -> list[Choice]:
    """Label six prompts; more e is better. Read every record back."""
    write_records(folder / "prompts.jsonl", PROMPTS)
    settings = {
        "generator": generator or FakeGenerator(),
        "verifiers": [FakeVerifier()],
        "candidates": {"plain": Writer(" e"), "long": Writer(" e and e there")},
        "gate": FakeGate(),
        "metric": "fake/alignment",
        "val_share": 0.3,
    }
    labels(folder / "prompts.jsonl", folder / "out", **(settings | changes))
    return [record for path in sorted((folder / "out").glob("*.jsonl")) for record in read_records(path, Choice)]


def test_the_better_candidate_is_the_label_in_both_orders(tmp_path: Path) -> None:
    records = label(tmp_path)
    assert len(records) == 2 * len(PROMPTS)
    for prompt in PROMPTS:
        one, other = (record for record in records if record.prompt_id == prompt.id)
        texts = [prompt.prompt + " e", prompt.prompt + " e and e there"]
        assert one.prompt == choose(prompt, *texts)
        assert other.prompt == choose(prompt, *texts[::-1])
        assert (one.label, other.label) == ("B", "A")
        score = {name: text.count("e") / 12 for name, text in zip(("plain", "long"), texts, strict=True)}
        assert one.scores == score
        assert list(other.scores) == ["long", "plain"]
    assert sum(record.label == "A" for record in records) == len(PROMPTS)


def test_no_prompt_is_in_two_splits(tmp_path: Path) -> None:
    held_out = [PROMPTS[4], Prompt("another", "a gnu")]
    write_records(tmp_path / "test_prompts.jsonl", held_out)
    label(tmp_path, test_prompts=tmp_path / "test_prompts.jsonl")
    splits = {
        name: {record.prompt_id for record in read_records(tmp_path / "out" / f"{name}.jsonl", Choice)}
        for name in ("train", "val", "test")
    }
    assert splits["test"] == {"4", "another"}
    assert len(splits["val"]) == 2  # three tenths of the five others
    assert sum(map(len, splits.values())) == len(set.union(*splits.values())) == 7


def test_candidates_of_a_prompt_share_their_seeds(tmp_path: Path) -> None:
    generator = FakeGenerator()
    label(tmp_path, generator, num_seeds=3)
    seeds: dict[str, set[int]] = {}
    for request in generator.made:
        seeds.setdefault(request.prompt, set()).add(request.seed)
    for prompt in PROMPTS:
        assert seeds[prompt.prompt + " e"] == seeds[prompt.prompt + " e and e there"]
        assert len(seeds[prompt.prompt + " e"]) == 3


def test_what_loses_intent_or_ties_teaches_nothing_and_is_counted(tmp_path: Path) -> None:
    generator = FakeGenerator()
    candidates = {
        "plain": Writer(" e", alone=["a ant"]),  # gives one prompt back
        "long": Writer(" e and e there"),
        "lost": Writer(" lost eee"),  # fails the gate
        "same": Writer(" e"),
        "close": Writer(" u"),
    }
    label(tmp_path, generator, candidates=candidates, min_gap=0.1, val_share=0.2)
    funnel = json.loads((tmp_path / "out" / "funnel.json").read_text())
    assert funnel["min_gap"] == 0.1
    total = {
        step: sum(funnel["splits"][name][step] for name in ("train", "val"))
        for step in funnel["splits"]["val"]
        if step != "wins"
    }
    # Of the ten pairs of a prompt four have lost in them; a ant was given back once, which spoils three more.
    assert total["pairs"] == 60
    assert total["refused"] == 6 * 4 + 3
    assert total["alike"] == 5  # plain and same, but for a ant
    # One e more is worth 1/12, less than the gap; long has two or three more than the others.
    assert total["near_ties"] == 5 + 6  # plain and close, same and close
    assert total["kept"] == 60 - 27 - 5 - 11
    assert not any("lost" in request.prompt for request in generator.made)
    assert total["pairs"] == sum(total[step] for step in ("refused", "alike", "unjudged", "near_ties", "kept"))


class ShySometimes(FakeVerifier):
    """Cannot judge what shows a bee."""

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        verdicts = super().judge(prompts, videos)
        return [
            Verdict.failed("a bee") if "bee" in prompt.prompt else verdict
            for prompt, verdict in zip(prompts, verdicts, strict=True)
        ]


def test_what_could_not_be_judged_is_counted_and_teaches_nothing(tmp_path: Path) -> None:
    records = label(tmp_path, verifiers=[ShySometimes()])
    assert {record.prompt_id for record in records} == {"0", "2", "3", "4", "5"}
    splits = json.loads((tmp_path / "out" / "funnel.json").read_text())["splits"]
    assert sum(counts["unjudged"] for counts in splits.values()) == 1


def test_another_verifier_does_not_go_on_with_the_folder(tmp_path: Path) -> None:
    label(tmp_path, backends={"verifiers": ["strict"], "gate": {"max_tokens": 1}})
    label(tmp_path, backends={"verifiers": ["strict"], "gate": {"max_tokens": 2}})  # no other video
    with pytest.raises(ValueError, match=r"backends.verifiers was \['strict'\] and is now \['mild'\]"):
        label(tmp_path, backends={"verifiers": ["mild"]})


def test_a_second_run_renders_only_what_is_new(tmp_path: Path) -> None:
    label(tmp_path)
    generator = FakeGenerator()
    label(tmp_path, generator, min_gap=0.01)
    assert not generator.made
    more = {"plain": Writer(" e"), "long": Writer(" e and e there"), "third": Writer(" eeee")}
    label(tmp_path, generator, candidates=more)
    assert {request.prompt for request in generator.made} == {p.prompt + " eeee" for p in PROMPTS}


def test_a_split_without_pairs_is_an_error_and_keeps_the_videos(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no pair is left for train.jsonl of .*use more prompts or seeds"):
        label(tmp_path, min_gap=1.0)
    assert json.loads((tmp_path / "out" / "funnel.json").read_text())["splits"]["train"]["near_ties"] > 0
    assert not list((tmp_path / "out").glob("*.jsonl"))
    generator = FakeGenerator()
    label(tmp_path, generator)
    assert not generator.made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": {"plain": Writer("")}}, "candidates must name at least two rewriters, got plain"),
        ({"metric": "other/alignment"}, "metric is 'other/alignment', and no verifier of that name ranks; .* fake/"),
        ({"verifiers": []}, "no verifier of that name ranks; .*there is none"),
        ({"verifiers": [FakeVerifier(ranked=False)]}, "no verifier of that name ranks"),
        ({"min_gap": 0}, "min_gap must be above 0 and at most 1, got 0"),
        ({"num_seeds": 0}, "num_seeds must be at least 1, got 0"),
        ({"val_share": 1}, "val_share must be above 0 and below 1, got 1"),
        ({"limit": 1}, "holds 1 prompts that are not test prompts"),
    ],
)
def test_settings_are_checked_before_anything_is_rendered(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    generator = FakeGenerator()
    with pytest.raises(ValueError, match=message):
        label(tmp_path, generator, **changes)
    assert not generator.made


def test_an_unknown_score_is_found_out_on_the_first_batch(tmp_path: Path) -> None:
    generator = FakeGenerator(batch_size=2)
    with pytest.raises(ValueError, match="no score 'fake/beauty'; the verifiers give fake/alignment, fake/clarity"):
        label(tmp_path, generator, metric="fake/beauty")
    assert len(generator.made) == 2


@pytest.fixture
def asked(tiny_lm: Path) -> Discriminator:
    return Discriminator(TransformersLM(str(tiny_lm), batch_size=4, max_new_tokens=1))


def test_which_is_called_the_first_does_not_matter(asked: Discriminator) -> None:
    firsts = [f"{prompt.prompt} in the snow" for prompt in PROMPTS]
    seconds = [f"a picture of {prompt.prompt}" for prompt in PROMPTS]
    chosen = asked.choose(PROMPTS, firsts, seconds)
    np.testing.assert_allclose(np.add(chosen, asked.choose(PROMPTS, seconds, firsts)), 1)
    assert np.ptp(chosen) > 0
    np.testing.assert_allclose(asked.choose(PROMPTS, firsts, firsts), 0.5)
    one_order = asked.language_model.label_log_probs(
        [choose(PROMPTS[0], firsts[0], seconds[0]), choose(PROMPTS[0], seconds[0], firsts[0])], CHOICE_LABELS
    )
    assert chosen[0] == pytest.approx((np.exp(one_order[0, 0]) + np.exp(one_order[1, 1])) / 2)


class Shortest:
    """Prefers short rewrites."""

    def choose(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[float]:
        return [float(len(first) < len(second)) for first, second in zip(firsts, seconds, strict=True)]


def test_the_rewrite_the_discriminator_likes_best_is_taken() -> None:
    candidates = {
        "long": Writer(" and so on"),
        "short": Writer(" now", alone=["a ant"]),  # gives one prompt back
        "lost": Writer(" lost", alone=["a bee"]),
        "middle": Writer(" at once", alone=["a ant"]),
    }
    rewriter = RAPORewriter(FakeGate(), others=candidates, discriminator=Shortest())
    assert rewriter.rewrite(PROMPTS[:3]) == ["a ant and so on", "a bee now", "a cow now"]
    lost = {"one": Writer(" lost"), "other": Writer(" lost too")}
    assert RAPORewriter(FakeGate(), others=lost, discriminator=Shortest()).rewrite(PROMPTS[:1]) == ["a ant"]
    with pytest.raises(ValueError, match="at least two candidates"):
        RAPORewriter(FakeGate(), others={"one": Writer("")}, discriminator=Shortest())


def pair(prompt_id: str, scores: dict[str, float]) -> tuple[Choice, Choice]:
    (a, b), best = list(scores), max(scores, key=lambda kind: scores[kind])
    prompt = Prompt(prompt_id, "a ball")
    return (
        Choice(
            f"{prompt_id}{a}{b}",
            prompt_id,
            choose(prompt, a, b),
            CHOICE_LABELS[best != a],
            {a: scores[a], b: scores[b]},
        ),
        Choice(
            f"{prompt_id}{b}{a}",
            prompt_id,
            choose(prompt, b, a),
            CHOICE_LABELS[best != b],
            {b: scores[b], a: scores[a]},
        ),
    )


def test_a_report_is_what_its_definitions_say() -> None:
    pairs = [
        pair("1", {"plain": 1.0, "graph": 0.5}),
        pair("2", {"plain": 1.0, "graph": 0.5}),
        pair("3", {"plain": 0.0, "graph": 0.5}),
        pair("3", {"plain": 0.0, "direct": 0.5}),
    ]
    # Means over both orders: 0.8, 0.6, 0.6 and 0.1 for plain; right, right, wrong, right.
    answers = np.array([[0.9, 0.3], [0.4, 0.2], [0.7, 0.5], [0.3, 1.0]])
    report = measure(pairs, answers)
    assert report.num_pairs == 4
    assert report.accuracy == 0.75
    assert report.majority == 0.75  # plain before graph, direct before plain
    assert report.gain == 0.0
    assert report.single_accuracy == 5 / 8  # both; the second; the second is at a half and counts as B; both
    assert report.position_bias == pytest.approx(4.3 / 8 - 0.5)
    # Winners have 0.8, 0.6, 0.4 and 0.9, losers 0.2, 0.4, 0.6 and 0.1: of 16 comparisons 4 + 3.5 + 2.5 + 4 are won.
    assert report.auroc == pytest.approx(14 / 16)
    assert report.interval[0] <= 0.75 <= report.interval[1]
    assert report.foreseen is None


def test_what_was_known_from_training_is_told_from_hindsight() -> None:
    pairs = [pair(str(index), {"plain": 1.0, "graph": 0.5}) for index in range(3)]
    pairs += [pair("4", {"plain": 0.0, "direct": 1.0})]
    answers = np.array([[0.9, 0.1]] * 3 + [[0.1, 0.9]])  # all right
    training = [pair("5", {"graph": 1.0, "plain": 0.5}), pair("6", {"graph": 0.0, "plain": 1.0})]
    training += [pair("7", {"graph": 1.0, "plain": 0.0})]
    report = measure(pairs, answers, training)
    assert report.majority == report.accuracy == 1.0
    assert report.foreseen == 0.5 / 4  # graph, which is wrong three times, and a coin between plain and direct
    assert report.foreseen_gain == pytest.approx(1 - 0.5 / 4)
    assert report.foreseen_gain_interval[0] > 0


def test_pairs_of_a_prompt_are_drawn_together() -> None:
    # Ten prompts, half of them right; each three times as many pairs says nothing new.
    once = [pair(str(index), {"plain": 1.0, "graph": 0.0}) for index in range(10)]
    kinds = [("plain", "graph"), ("plain", "direct"), ("graph", "direct")]
    thrice = [pair(str(index), {a: 1.0, b: 0.0}) for index in range(10) for a, b in kinds]
    answers = [[0.9, 0.1] if index % 2 else [0.1, 0.9] for index in range(10)]
    alone = measure(once, np.array(answers))
    together = measure(thrice, np.repeat(np.array(answers), 3, axis=0))
    assert together.accuracy == alone.accuracy == 0.5
    assert together.interval == pytest.approx(alone.interval)


def test_a_pair_in_one_order_only_is_refused(tmp_path: Path) -> None:
    both, (one, _) = pair("1", {"plain": 1.0, "graph": 0.5}), pair("2", {"plain": 1.0, "graph": 0.5})
    with pytest.raises(ValueError, match="has 1 records of prompt 2 with plain and graph, which are not one pair"):
        paired([*both, one], tmp_path)
    with pytest.raises(ValueError, match="holds pairs of one prompt"):
        paired(both, tmp_path)


def test_labels_and_choice_run_from_the_command_line(
    tiny_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(prompt.prompt for prompt in PROMPTS))

    def use(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["collect", *arguments])
        collect.__main__.main()

    writers = {
        name: {"class_path": "tests.collect.examples.test_labels.Writer", "init_args": {"ending": ending}}
        for name, ending in (("plain", " e"), ("long", " e and e"))
    }
    use(
        "labels",
        f"--prompts={tmp_path / 'prompts.txt'}",
        f"--output={tmp_path / 'out'}",
        "--generator=tests.collect.fakes.FakeGenerator",
        '--verifiers=[{"class_path": "tests.collect.fakes.FakeVerifier"}]',
        "--gate=collect.intent.IntentGate",
        f"--candidates={json.dumps(writers)}",
        "--metric=fake/alignment",
    )
    use(
        "choice",
        f"--choices={tmp_path / 'out' / 'train.jsonl'}",
        f"--training={tmp_path / 'out' / 'train.jsonl'}",
        f"--output={tmp_path / 'choice.json'}",
        "--discriminator.language_model=collect.backends.TransformersLM",
        f"--discriminator.language_model.pretrained={tiny_lm}",
        "--discriminator.language_model.max_new_tokens=1",
    )
    report = json.loads((tmp_path / "choice.json").read_text())
    assert report["num_pairs"] == 5
    assert report["majority"] == report["foreseen"] == 1.0  # long always wins
    assert f"{report['accuracy']:.3f}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        use(
            "choice",
            f"--choices={tmp_path / 'none.jsonl'}",
            "--output=x",
            f"--discriminator.language_model.pretrained={tiny_lm}",
        )
    assert "none.jsonl" in capsys.readouterr().err
