"""Chat templates are programs of strangers: each is tried in a process of its own, with limits, before it is used here.

Transformers runs them in Jinja's sandbox, which keeps them from files and objects of Python, but not from running for
ever or filling the memory.
"""

import os
import resource
import select
import signal
from collections.abc import Sequence

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from data_modules.records import Messages
from data_modules.text import quoted

TIME_LIMIT = 10.0  # seconds; a template takes milliseconds
MEMORY_LIMIT = 1 << 30  # bytes beyond what the process has
# What a faulty template ends in, as Jinja lets errors of Python through.
FAULTS = (
    TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
_TRIED: Sequence[Messages] = (
    [{"role": "user", "content": "a bird"}],
    [{"role": "user", "content": "a bird"}, {"role": "assistant", "content": "A bird flies."}],
)


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """See that a tokenizer's chat template ends, and writes what it is given.

    Raises:
        ValueError: if it fails, takes too long or too much memory, or leaves out what the user says.
    """
    remedy = "take another model, or mend its chat_template.jinja."
    told = f"the chat template of {tokenizer.name_or_path}"
    answer = _tried(tokenizer)
    if answer is None:
        raise ValueError(f"{told} does not end within {TIME_LIMIT:g} seconds and {MEMORY_LIMIT >> 20} MiB; {remedy}")
    if answer:
        raise ValueError(f"{told} can't be used: {answer}; {remedy}")


def fault_of(error: BaseException) -> str:
    """What a template's error says, on one line and with nothing that a terminal obeys."""
    return quoted(f"{type(error).__name__}: {' '.join(str(error).split())}", most=200)[1:-1]


def _tried(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What is wrong with a template, nothing if all is well; ``None`` if its process had to be ended."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        os.close(receiver)
        _try(tokenizer, sender)
    os.close(sender)
    try:
        answered, _, _ = select.select([receiver], [], [], 2 * TIME_LIMIT)
        said = os.read(receiver, 4096) if answered else b""
    finally:
        os.close(receiver)
        if not said:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return said[1:].decode(errors="replace") if said else None


def _try(tokenizer: PreTrainedTokenizerBase, sender: int) -> None:
    """Run in the other process, which this ends: render, and say what is wrong."""
    try:
        # The default action ends the process even inside one long operation, where no handler of Python would run.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - no other module runs in this process
            used = int(file.read().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = used + MEMORY_LIMIT
        resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
        wrong = ""
        try:
            for messages in _TRIED:
                asked = messages[-1]["role"] == "user"
                text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asked)
                if not all(message["content"] in str(text) for message in messages):
                    wrong = "it leaves out what is said"
        except FAULTS as error:
            wrong = fault_of(error)
        os.write(sender, b"\n" + wrong.encode(errors="replace")[:4000])
    finally:
        os._exit(0)
