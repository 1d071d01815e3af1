"""Stage 1 from the user's prompt to the answer: nothing of what was asked for is lost on the way."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from collect.backends.transformers_lm import TransformersLM
from collect.graph.modifiers import Modifiers, extract
from collect.graph.relation_graph import RelationGraph
from collect.graph.retrieval import Retrieval
from collect.intent.gate import IntentGate
from collect.rewriters.rapo import RAPORewriter
from data_modules import templates
from data_modules.records import Caption, Messages, Prompt

LOOSE = Retrieval(min_similarity=0.1, num_modifiers=3, max_per_kind=3)
BIRD = Prompt("1", "a bird and a cat in a garden")
BOAT = Prompt("2", "a red boat on a lake")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    captions = [
        Modifiers(
            "1",
            scene=("flower garden",),
            subject=("old stone fountain", "grey cat"),
            action=("chasing a butterfly",),
            atmosphere=("soft morning light",),
        ),
        Modifiers(
            "2",
            scene=("mountain lake",),
            subject=("wooden boat with oars, ropes, and other items",),
            action=("rowing close-up",),
            atmosphere=("low fog over water",),
        ),
    ]
    RelationGraph.build(captions).save(folder)
    return folder


@pytest.fixture(scope="module")
def gate() -> IntentGate:
    return IntentGate()


@dataclass
class Answering:
    """Answers with a function of the prompt and the detail; stands in where the answer is the test's input."""

    answer: Callable[[str, str], str]
    calls: list[list[Messages]] = field(default_factory=list)

    def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
        self.calls.append(list(conversations))
        return [self.answer(*asked(messages)) for messages in conversations]


def asked(messages: Messages) -> tuple[str, str]:
    """The prompt and the detail of a request."""
    content = messages[-1]["content"]
    match = re.search(r"\nDetail: (.*)\nPrompt: (.*)", content, re.DOTALL)
    return (match[2], match[1]) if match else (content.split("\nPrompt: ", 1)[1], "")


def joined(prompt: str, detail: str) -> str:
    return f"{prompt}, {detail}"


def merging(graph: Path, gate: IntentGate, answer: Callable[[str, str], str] = joined, **parts: object) -> RAPORewriter:
    return RAPORewriter(gate, graph, Answering(answer), retrieval=LOOSE, **parts)  # type: ignore[arg-type]


class Prefers:
    """Finds one text better than any other."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked = 0

    def choose(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[float]:
        self.asked += len(prompts)
        return [0.9 if first == self.text else 0.1 for first in firsts]


# Defects of the method's published scripts, none of which may come back.


def test_merging_starts_from_the_users_prompt_not_from_the_list_of_modifiers(graph: Path, gate: IntentGate) -> None:
    rewriter = merging(graph, gate)
    [rewriting] = rewriter.explain([BIRD])
    assert len(rewriting.retrieved) == 3
    requests = [asked(call[0]) for call in rewriter.merger.calls]  # type: ignore[union-attr]
    assert requests[0] == (BIRD.prompt, rewriting.retrieved[0].phrase)
    assert [prompt for prompt, _ in requests[1:]] == [merge.text for merge in rewriting.merges[:-1]]
    assert rewriting.text.startswith(BIRD.prompt)


def test_a_merge_that_drops_what_the_user_asked_for_is_undone_and_counted(graph: Path, gate: IntentGate) -> None:
    second = merging(graph, gate).retrieve([BIRD])[0][1].phrase
    rewriter = merging(graph, gate, lambda prompt, detail: "only cats" if detail == second else joined(prompt, detail))
    [rewriting] = rewriter.explain([BIRD])
    assert [merge.outcome for merge in rewriting.merges] == ["merged", "undone", "merged"]
    assert "bird" in rewriting.merges[1].report.missing
    assert asked(rewriter.merger.calls[2][0])[0] == rewriting.merges[0].text  # type: ignore[union-attr]
    assert "bird" in rewriting.text
    assert rewriter.merges == {"merged": 2, "undone": 1}


def test_details_are_merged_one_at_a_time_most_similar_first_and_the_same_ones_every_time(
    graph: Path, gate: IntentGate
) -> None:
    rewriter = merging(graph, gate)
    first, again = rewriter.explain([BIRD, BOAT]), rewriter.explain([BIRD, BOAT])
    assert first == again
    for rewriting in first:
        similarities = [modifier.similarity for modifier in rewriting.retrieved]
        assert similarities == sorted(similarities, reverse=True)
        assert [merge.modifier for merge in rewriting.merges] == list(rewriting.retrieved)


def test_what_is_retrieved_obeys_the_settings_that_are_given(graph: Path, gate: IntentGate) -> None:
    strict = Retrieval(min_similarity=0.3, max_similarity=0.5, num_modifiers=1)
    rewriter = RAPORewriter(gate, graph, Answering(joined), retrieval=strict)
    for rewriting in rewriter.explain([BIRD, BOAT]):
        assert len(rewriting.retrieved) <= 1
        assert all(0.3 <= modifier.similarity <= 0.5 for modifier in rewriting.retrieved)
    nothing = RAPORewriter(gate, graph, Answering(joined), retrieval=Retrieval(min_similarity=0.99, max_similarity=1))
    [rewriting] = nothing.explain([BIRD])
    assert (rewriting.origin, rewriting.text) == ("raw", BIRD.prompt)


def test_a_detail_that_only_repeats_the_prompt_is_not_merged(graph: Path, gate: IntentGate) -> None:
    prompt = Prompt("3", "a grey cat in a flower garden")
    found = merging(graph, gate).retrieve([prompt])[0]
    low = Retrieval(min_similarity=0.1, max_similarity=found[0].similarity - 0.01, num_modifiers=3, max_per_kind=3)
    kept = RAPORewriter(gate, graph, Answering(joined), retrieval=low).retrieve([prompt])[0]
    assert found[0].phrase == "grey cat"
    assert "grey cat" not in [modifier.phrase for modifier in kept]


@pytest.mark.parametrize(
    "prompt",
    [
        "St. Basil's at 5 p.m. A close-up, then a wide shot.",
        'A sign that says "Open, 24 hours."',
        "a cat\nand a bird",
        "a \U0001f431 and a bird",
        "\u732b\u3068\u9ce5, slowly",
    ],
)
def test_prompts_with_full_stops_commas_hyphens_and_newlines_reach_every_model_whole(
    prompt: str, graph: Path, gate: IntentGate
) -> None:
    refactorer, direct = Answering(lambda text, _: text), Answering(lambda text, _: f"{text} again")
    rewriter = merging(graph, gate, refactorer=refactorer, direct=direct)
    [rewriting] = rewriter.explain([Prompt("1", prompt)])
    assert asked(rewriter.merger.calls[0][0])[0] == prompt  # type: ignore[union-attr]
    assert asked(refactorer.calls[0][0])[0].startswith(prompt)
    assert asked(direct.calls[0][0])[0] == prompt
    assert rewriting.text.startswith(prompt)


def test_a_detail_with_commas_is_one_detail(graph: Path, gate: IntentGate) -> None:
    rewriter = merging(graph, gate)
    [rewriting] = rewriter.explain([BOAT])
    details = [asked(call[0])[1] for call in rewriter.merger.calls]  # type: ignore[union-attr]
    assert "wooden boat with oars, ropes, and other items" in details
    assert len(details) == len(rewriting.retrieved)


def test_an_answer_of_several_lines_is_kept_whole_and_shifts_nothing(graph: Path, gate: IntentGate) -> None:
    rewriter = merging(graph, gate, refactorer=Answering(lambda prompt, _: f"{prompt}.\n\nSecond paragraph, slowly."))
    texts = rewriter.rewrite([BIRD, BOAT])
    assert all(text.endswith("\n\nSecond paragraph, slowly.") for text in texts)
    assert [prompt.prompt in text for prompt, text in zip([BIRD, BOAT], texts, strict=True)] == [True, True]


def test_the_refactoring_model_is_asked_as_it_was_trained(graph: Path, gate: IntentGate) -> None:
    refactorer = Answering(lambda prompt, _: prompt)
    RAPORewriter(gate, refactorer=refactorer, few_shot=True).rewrite([BIRD, Prompt("2", "a boat", "boats float")])
    assert refactorer.calls == [[templates.refactor(BIRD.prompt), templates.refactor("a boat", "boats float")]]


def test_an_answer_that_fails_is_never_written_into_the_results(graph: Path, gate: IntentGate) -> None:
    answers = {
        BIRD.prompt: "I'm sorry, but I cannot help with that.",
        BOAT.prompt: "Option 1: a red boat on a lake. Option 2: a red boat on a wide lake.",
        "a dog": "",
        "a horse runs": "Un cheval qui court dans la prairie avec ses amis les plus chers",
        "two cows": "#### {{{ \u4e71\u7801 ]]]",
        "a hen": "a hen " * 40,
        "a goat": "A goat by a fence.",
    }
    prompts = [Prompt(str(number), text) for number, text in enumerate(answers)]
    rewriter = RAPORewriter(gate, refactorer=Answering(lambda prompt, _: answers[prompt]))
    assert rewriter.rewrite(prompts) == [*list(answers)[:-1], "A goat by a fence."]
    assert rewriter.fallbacks == 6


# The choice.


def test_a_discriminator_chooses_where_both_candidates_pass(graph: Path, gate: IntentGate) -> None:
    direct = Answering(lambda prompt, _: f"{prompt} at noon" if "boat" in prompt else "nothing of the kind")
    refactored = f"{BOAT.prompt} at dawn"
    for favourite, origin in ((refactored, "refactored"), (f"{BOAT.prompt} at noon", "direct")):
        chooses = Prefers(favourite)
        rewriter = RAPORewriter(
            gate,
            refactorer=Answering(lambda prompt, _: f"{prompt} at dawn"),
            direct=direct,
            discriminator=chooses,
        )
        boat, bird = rewriter.explain([BOAT, BIRD])
        assert (boat.origin, boat.text) == (origin, favourite)
        preferences = {candidate.origin: candidate.preference for candidate in boat.candidates}
        assert preferences.pop(origin) == pytest.approx(0.9)
        assert list(preferences.values()) == pytest.approx([0.1])
        assert (bird.origin, bird.candidates[0].preference) == (
            "refactored",
            None,
        )  # its direct rewrite failed the gate
        assert chooses.asked == 1


class Longer:
    """Finds the longer of two texts better, and is never sure."""

    def choose(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[float]:
        lengths = zip(map(len, firsts), map(len, seconds), strict=True)
        return [0.5 + 0.4 * ((first > second) - (first < second)) for first, second in lengths]


class Appends:
    """A rewriter of a user's own."""

    def __init__(self, ending: str) -> None:
        self.ending = ending

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        return [f"{prompt.prompt}{self.ending}" for prompt in prompts]


def test_further_candidates_are_compared_two_by_two(gate: IntentGate) -> None:
    others = {"noon": Appends(" at noon"), "late": Appends(" late in the evening"), "parrot": Appends("")}
    refactorer = Answering(lambda prompt, _: f"{prompt} at dawn")
    [rewriting] = RAPORewriter(gate, refactorer=refactorer, others=others, discriminator=Longer()).explain([BOAT])
    assert (rewriting.origin, rewriting.text) == ("late", f"{BOAT.prompt} late in the evening")
    preferences = {candidate.origin: candidate.preference for candidate in rewriting.candidates}
    # Of the equally long ones each has a half against the other, and both lose to the longest: (0.5 + 0.1) / 2.
    assert preferences == {"refactored": pytest.approx(0.3), "noon": pytest.approx(0.3), "late": pytest.approx(0.9)}
    [unchosen] = RAPORewriter(gate, others=others).explain([BOAT])
    assert (unchosen.origin, unchosen.candidates[0].preference) == ("noon", None)  # the first that passes


def test_the_second_candidate_stands_in_for_a_first_that_fails(gate: IntentGate) -> None:
    rewriter = RAPORewriter(
        gate, refactorer=Answering(lambda *_: "a dog"), direct=Answering(lambda prompt, _: f"{prompt} at noon")
    )
    [rewriting] = rewriter.explain([BOAT])
    assert (rewriting.origin, rewriting.text) == ("direct", f"{BOAT.prompt} at noon")
    assert [candidate.report.passed for candidate in rewriting.candidates] == [False, True]


def test_candidates_that_are_alike_or_the_prompt_itself_are_no_choice(gate: IntentGate) -> None:
    chooses = Prefers("")
    same = Answering(lambda prompt, _: f"{prompt} at noon")
    [rewriting] = RAPORewriter(gate, refactorer=same, direct=same, discriminator=chooses).explain([BOAT])
    assert [candidate.origin for candidate in rewriting.candidates] == ["refactored"]
    parrot = Answering(lambda prompt, _: prompt)
    [rewriting] = RAPORewriter(gate, refactorer=parrot, direct=parrot, discriminator=chooses).explain([BOAT])
    assert (rewriting.origin, rewriting.candidates) == ("raw", ())
    assert chooses.asked == 0


def test_all_prompts_of_a_step_are_asked_in_one_call(graph: Path, gate: IntentGate) -> None:
    refactorer, direct = Answering(joined), Answering(lambda prompt, _: prompt)
    rewriter = merging(graph, gate, refactorer=refactorer, direct=direct)
    rewriter.rewrite([BIRD, BOAT])
    assert [len(call) for call in rewriter.merger.calls] == [2, 2, 2]  # type: ignore[union-attr]
    assert [len(refactorer.calls[0]), len(direct.calls[0])] == [2, 2]
    assert rewriter.rewrite([]) == []


def test_a_rule_goes_to_the_models_and_not_into_the_gate(gate: IntentGate) -> None:
    refactorer, direct = Answering(lambda *_: "a boat that floats"), Answering(lambda *_: "a boat")
    rewriter = RAPORewriter(gate, refactorer=refactorer, direct=direct)
    assert rewriter.rewrite([Prompt("1", "a boat", "gravity pulls down")]) == ["a boat that floats"]
    assert direct.calls == [[templates.direct("a boat gravity pulls down")]]


def test_parts_that_would_not_be_used_are_refused(graph: Path, gate: IntentGate, tmp_path: Path) -> None:
    model = Answering(joined)
    with pytest.raises(ValueError, match=r"graph and merger go together.*merger is not given"):
        RAPORewriter(gate, graph)
    with pytest.raises(ValueError, match=r"graph and merger go together.*graph is not given"):
        RAPORewriter(gate, merger=model)
    with pytest.raises(ValueError, match="nothing to rewrite with"):
        RAPORewriter(gate)
    with pytest.raises(ValueError, match="a discriminator chooses between at least two candidates"):
        RAPORewriter(gate, refactorer=model, discriminator=Prefers(""))
    with pytest.raises(FileNotFoundError, match="holds no finished graph"):
        RAPORewriter(gate, tmp_path, model)


@pytest.mark.parametrize("few_shot", [False, True])
def test_the_toy_models_rewrite_through_every_step(few_shot: bool, graph: Path, gate: IntentGate) -> None:
    language_model = TransformersLM("models/toy/lm", max_new_tokens=48)
    rewriter = RAPORewriter(
        gate, graph, language_model, language_model, language_model, retrieval=LOOSE, few_shot=few_shot
    )
    prompts = [Prompt("1", "a blue box falls"), Prompt("2", "a jade orb rolls at night")]
    for prompt, rewriting in zip(prompts, rewriter.explain(prompts), strict=True):
        assert len(rewriting.merges) == len(rewriting.retrieved) > 0
        assert gate.check([(prompt.prompt, rewriting.text)])[0].passed


# Templates with worked examples.


def test_few_shot_templates_end_in_the_zero_shot_one(gate: IntentGate) -> None:
    for plain, shown in (
        (templates.merge("a dog", "a wet street"), templates.merge("a dog", "a wet street", few_shot=True)),
        (templates.direct("a dog"), templates.direct("a dog", few_shot=True)),
        (templates.extract("a dog runs"), templates.extract("a dog runs", few_shot=True)),
    ):
        assert shown[-1:] == plain
        assert len(shown) >= 5
        assert [message["role"] for message in shown[:-1]] == ["user", "assistant"] * ((len(shown) - 1) // 2)
        instruction = plain[0]["content"].splitlines()[0]
        assert all(message["content"].startswith(instruction) for message in shown[::2])


def test_worked_examples_keep_the_intent_of_their_own_prompts(gate: IntentGate) -> None:
    for shown in (templates.merge("x", "y", few_shot=True), templates.direct("x", few_shot=True)):
        pairs = [(asked([turn])[0], answer["content"]) for turn, answer in zip(shown[::2], shown[1::2], strict=False)]
        assert all(report.passed for report in gate.check(pairs)), gate.check(pairs)


def test_worked_examples_of_extraction_are_shown_and_readable() -> None:
    asked_for: list[Messages] = []

    class Extracts:
        def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
            asked_for.extend(conversations)
            return [messages[1]["content"] for messages in conversations]  # the first worked example's answer

    seen = "An elderly man in a straw hat waters tomato plants on a sunny balcony."
    found, faults = extract([Caption("1", seen, "test")], Extracts(), few_shot=True)
    assert asked_for == [templates.extract(seen, few_shot=True)]
    assert (found[0].scene, faults) == (("sunny balcony",), [])
