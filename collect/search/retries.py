"""What happens when a backend fails: the batch is halved, tried again item by item, given up, or the run stops."""

import gc
import json
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from collect.backends.memory import is_out_of_memory

MAX_FAILURES = 3  # items in a row

Item = TypeVar("Item", bound=Hashable)
Answer = TypeVar("Answer")
Result = TypeVar("Result")


class BackendError(RuntimeError):
    """A backend that failed too often, or in such a way, that the run can't go on."""


class AbandonedError(TimeoutError):
    """A call that ran out of time and that Python can't end: it goes on in a thread, inside the backend."""


class Retries(Generic[Item, Answer]):
    """Calls one backend with batches, and lets one bad item or a moment of trouble cost as little as possible.

    Where memory runs out the batch is halved, for the rest of the run. Any other failed call is noted, and its items
    are tried once more, one at a time, each prompt's first item before any prompt's second. An item that fails again
    is given up; three of them in a row, in the order tried, mean that it is the backend that fails, and stop the run.
    What fails alone with an error that no second try can mend (see :func:`is_lasting`) is given up at once.

    A call that runs out of time stops the run: it goes on inside the backend, which two calls at once would corrupt.

    Args:
        name: of the backend, in notes and messages.
        call: answers each item of a batch, in order.
        prompt_of: what an item is about, so that one bad prompt is not taken for a bad backend.
        note: keeps a record of a failed call: backend, items and error.
        time_limit: seconds a call may take; ``None`` waits for ever.
    """

    def __init__(
        self,
        name: str,
        call: Callable[[Sequence[Item]], Sequence[Answer]],
        prompt_of: Callable[[Item], str],
        note: Callable[[str, Sequence[Item], str], None],
        time_limit: float | None = None,
    ) -> None:
        self.name = name
        self.call = call
        self.prompt_of = prompt_of
        self.note = note
        self.time_limit = time_limit
        self.size: int | None = None  # items a call may have, once memory ran out
        self.in_a_row = 0

    def __call__(self, items: Sequence[Item]) -> tuple[dict[Item, Answer], dict[Item, str]]:
        """Answer what can be answered, and say why the rest cannot.

        Raises:
            BackendError: after three items in a row that were given up, or a call that ran out of time.
        """
        answers: dict[Item, Answer] = {}
        errors: dict[Item, str] = {}
        begin = 0
        while begin < len(items):
            batch = items[begin : begin + (self.size or len(items))]
            error = self._try(batch, answers)
            if error is not None and len(batch) > 1 and is_out_of_memory(error):
                self.size = len(batch) // 2
                continue
            if error is not None and len(batch) == 1 and is_lasting(error):
                self._give_up(batch[0], error, errors)
            elif error is not None:
                for item in self._by_turns(batch):
                    self._once_more(item, answers, errors)
            begin += len(batch)
        return answers, errors

    def _try(self, batch: Sequence[Item], answers: dict[Item, Answer]) -> Exception | None:
        try:
            given = within(self.time_limit, lambda: self.call(batch))
            if len(given) != len(batch):
                raise ValueError(f"{len(given)} answers to {len(batch)} questions")
        except AbandonedError as error:
            self.note(self.name, batch, explain(error))
            raise BackendError(
                f"{self.name} gave {error}. The call cannot be ended in this process, and another beside it would "
                "spoil both. What was made is kept: raise time_limit and start the same command again, or let workers "
                "do the work, which are ended and replaced."
            ) from error
        except Exception as error:  # whatever a backend may raise
            self.note(self.name, batch, explain(error))
            return without_traceback(error)
        answers.update(zip(batch, given, strict=True))
        self.in_a_row = 0
        return None

    def _once_more(self, item: Item, answers: dict[Item, Answer], errors: dict[Item, str]) -> None:
        error = self._try([item], answers)
        if error is not None:
            self._give_up(item, error, errors)

    def _give_up(self, item: Item, error: Exception, errors: dict[Item, str]) -> None:
        errors[item] = explain(error)
        self.in_a_row += 1
        if self.in_a_row >= MAX_FAILURES:
            raise BackendError(
                f"{self.name} failed {MAX_FAILURES} times in a row, the last time with {errors[item]}. "
                "What was made is kept: mend it and start the same command again."
            ) from error

    def _by_turns(self, batch: Sequence[Item]) -> list[Item]:
        seen: Counter[str] = Counter()
        turns = {}
        for item in batch:
            turns[item] = seen[self.prompt_of(item)]
            seen[self.prompt_of(item)] += 1
        return sorted(batch, key=turns.__getitem__)


def is_lasting(error: Exception) -> bool:
    """Whether the same call would fail in the same way again: it is wrong, and not the moment."""
    # A server may be starting up, or busy.
    return isinstance(error, (TypeError, ValueError, NotImplementedError)) and not isinstance(
        error, (json.JSONDecodeError, ConnectionError)
    )


def without_traceback(error: Exception) -> Exception:
    """Drop what a failed call still holds: its traceback keeps every tensor of the frames it went through alive."""
    seen: BaseException | None = error
    while seen is not None:
        before = seen.__cause__ or seen.__context__
        seen.__traceback__ = seen.__context__ = seen.__cause__ = None
        seen = before
    gc.collect()
    return error


def within(seconds: float | None, call: Callable[[], Result]) -> Result:
    """Give a call so much time.

    Raises:
        AbandonedError: once the time is over. Python cannot end the call: its thread is left behind, and ends with
            the process.
    """
    if seconds is None:
        return call()
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise AbandonedError(f"no answer within {seconds:g} seconds")
    if errors:
        raise errors.pop()  # no frame may keep it
    return results[0]


def explain(error: Exception) -> str:
    """Name an error and say its message, in characters that a database takes."""
    return f"{type(error).__name__}: {error}".encode(errors="backslashreplace").decode()
