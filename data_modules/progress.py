"""How far something is: a bar in a terminal, a plain line now and then in a file or a pipe."""

import sys
from typing import Any

from tqdm import tqdm

SECONDS = 30.0  # from one plain line to the next; what takes less time has none


class Progress(tqdm):
    """tqdm with its arguments, which writes plain lines where standard error is no terminal."""

    disable: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._plain = not sys.stderr.isatty()
        self._num_lines = 0
        if self._plain:
            delay = max(SECONDS, kwargs.get("delay") or 0)
            kwargs |= {"mininterval": SECONDS, "miniters": 1, "delay": delay}
        super().__init__(*args, **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the bar, or write a line."""
        if not self._plain:
            return bool(super().display(msg, pos))
        self._num_lines += 1
        self.fp.write(self.line() + "\n")
        self.fp.flush()
        return True

    def close(self) -> None:
        """Draw or write where it ended, if anything was before."""
        if not self._plain or self.disable:
            super().close()
            return
        if self._num_lines and self.n > self.last_print_n:
            self.display()
        self.disable = True
        self._decr_instances(self)

    def line(self) -> str:
        """What a plain line says: so many of all, the time it took and, by the mean speed so far, the time it takes."""
        now = self.format_dict
        done, total, seconds = now["n"], now["total"], now["elapsed"]
        share = f" of {total} ({done / total:.0%})" if total else ""
        parts = [f"{self.desc or 'done'}: {done}{share}", f"{self.format_interval(seconds)} so far"]
        made = done - now["initial"]
        if total and made:
            parts.append(f"about {self.format_interval(seconds / made * (total - done))} to go")
        return ", ".join([*parts, *([self.postfix] if self.postfix else [])])
