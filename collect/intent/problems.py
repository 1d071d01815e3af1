"""What makes a text unusable as a prompt, whatever was asked for."""

import re
from collections.abc import Sequence

import simplemma

from collect.backends.wrapping import unwrap
from collect.intent.words import tokenise

REFUSAL = re.compile(
    r"^\W*(?:i(?:'m| am) (?:sorry|unable|not able)|sorry\b|i (?:can(?:no|')t|cannot|won't|will not)\b|as an ai\b)"
    r"|^\W*unfortunately, i\b|\bas an ai (?:language )?model\b"
    r"|\bi (?:can(?:no|')t|cannot) (?:assist|help|comply|fulfil|generate|create)\b",
    re.IGNORECASE,
)

PREAMBLE = re.compile(
    r"^\W*(?:(?:sure|certainly|absolutely|of course|okay|ok|great)\b\s*[,!.:]|below is\b|<think>|```)"
    r"|^\W*here(?:'s| is| are)\b[^.]{0,60}\b(?:prompt|version|rewrite|rewritten|description|caption)\b"
    r"|^\W*(?:the )?(?:(?:rewritten|refined|revised|improved|enhanced|expanded|final) )?"
    r"(?:prompt|output|caption|rewrite|answer)\s*:"
    r"|\blet me know if\b|\bi hope this (?:helps|works)\b|\bfeel free to\b",
    re.IGNORECASE,
)

# What is left where a wrapping can't be taken off (see :mod:`collect.backends.wrapping`).
VERSIONS = re.compile(
    r"(?:^|[\s*#(])(?P<name>option|version|variant|variation|alternative|prompt|take|rewrite)"
    r"[ #*]*(?:1|a|one|i)\b[*)]*\s*[:.)\u2013-].*?(?P=name)[ #*]*(?:2|b|two|ii)\b",
    re.IGNORECASE | re.DOTALL,
)
STRUCTURE = re.compile(r"\A\s*[{\[][\s\"'{\[]|```|^#{1,6}[ \t]+\S|<\|[\w ]+\|>", re.MULTILINE)

SCRIPTS = {
    "Chinese or Japanese": r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]",
    "Korean": r"[\u1100-\u11ff\uac00-\ud7af]",
    "Cyrillic": r"[\u0400-\u04ff]",
    "Greek": r"[\u0370-\u03ff]",
    "Arabic": r"[\u0600-\u06ff]",
    "Hebrew": r"[\u0590-\u05ff]",
    "Indic": r"[\u0900-\u0dff]",
    "Thai": r"[\u0e00-\u0e7f]",
}

DOUBLED = re.compile(r"\b([^\W\d_]+)\s+\1\b", re.IGNORECASE)

MAX_REPEATED = 0.3  # share of 4-grams that came before


def problems(raw: str, rewrite: str) -> tuple[str, ...]:
    """Name what makes a rewrite unusable as a prompt; what the raw prompt has, too, does not count."""
    words = [token.text for token in tokenise(rewrite)]
    if not words:
        return ("empty",)
    found = []
    for script, pattern in SCRIPTS.items():
        if re.search(pattern, rewrite) and not re.search(pattern, raw):
            found.append(f"stray {script} text")
    if is_foreign(raw, rewrite):
        found.append("another language than the prompt's")
    if REFUSAL.search(rewrite) and not REFUSAL.search(raw):
        found.append("a refusal")
    _, wrapping = unwrap(rewrite, raw)
    if wrapping or (PREAMBLE.search(rewrite) and not PREAMBLE.search(raw)):
        found.append("words about the rewrite instead of the rewrite alone")
    if VERSIONS.search(rewrite) and not VERSIONS.search(raw):
        found.append("several versions instead of one")
    if STRUCTURE.search(rewrite) and not STRUCTURE.search(raw):
        found.append("a structure instead of a text")
    if repeats_itself(words) and not repeats_itself([token.text for token in tokenise(raw)]):
        found.append("repeated text")
    return tuple(found)


def doubles_a_word(raw: str, rewrite: str) -> bool:
    """Whether a rewrite says a word twice in a row that its prompt does not.

    Nothing that a user should be refused, which is why the gate lets it pass, but nothing to learn from either. None
    of 3,638 published rewrites of VBench's prompts does so.
    """
    return not {word.lower() for word in DOUBLED.findall(rewrite)} <= {word.lower() for word in DOUBLED.findall(raw)}


def is_foreign(raw: str, rewrite: str) -> bool:
    """Whether a rewrite of an English prompt is not English."""
    if len(rewrite.split()) < 6 or len(raw.split()) < 2:
        return False
    return (
        simplemma.in_target_language(raw, lang=("en",))
        >= 0.6
        > 2 * simplemma.in_target_language(rewrite, lang=("en",)) - 0.4
    )


def repeats_itself(words: Sequence[str]) -> bool:
    """Whether a text repeats a word or says the same again."""
    if any(len(set(words[i : i + 4])) == 1 for i in range(len(words) - 3)):
        return True
    grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return len(grams) >= 8 and 1 - len(set(grams)) / len(grams) > MAX_REPEATED
