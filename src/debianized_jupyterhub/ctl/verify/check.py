"""What a check is: a function that yields what is wrong, registered under a name together with what it builds on."""

import contextlib
import functools
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from ...lines import one_line

# Seconds. A check that takes longer is an error, so that one that hangs does not hide the others; verify ends in END in any case.
LIMIT, ALL, END = 15, 50, 85

PASSED, WARNING, FAILED, ERROR, SKIPPED = "passed", "warning", "failed", "error", "skipped"


@dataclass(frozen=True)
class Result:
    """What one check found.

    `status` is PASSED, WARNING (works, but look at it), FAILED, ERROR (the check could not be done) or SKIPPED (what it builds on failed,
    so it could only say the same again).
    """

    name: str
    status: str
    what: str  # what is the case, one line
    why: str = ""  # what follows from it
    mend: str = ""  # what to do, one line

    def as_dict(self) -> dict[str, str]:
        """Return it as a dict of str."""
        return asdict(self)


class Finding(Exception):
    """What a check yields, or raises to end at once: something that is not as it should be."""

    status = FAILED

    def __init__(self, what: str, why: str = "", mend: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.mend = what, why, mend


class Failed(Finding):
    """It does not work."""


class Warned(Finding):
    """It works, but somebody should look at it."""

    status = WARNING


T = TypeVar("T")


def within(seconds: float, function: Callable[[], T]) -> T:
    """Return what `function` returns, or raise what it raises; TimeoutError where that takes longer than `seconds`.

    It is called in a thread, which is left to itself then and does not keep the process from ending: what hangs in the kernel cannot be ended.
    """
    answers: queue.SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = queue.SimpleQueue()

    def call() -> None:
        try:
            answers.put((function(), None))
        except BaseException as error:  # noqa: BLE001 (it is raised where somebody waits)
            answers.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        value, error = answers.get(timeout=max(0.0, seconds))
    except queue.Empty:
        raise TimeoutError(f"not done after {seconds:.0f} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def end_children() -> None:
    """Kill what threads that were left to themselves have started; nothing of it changes anything."""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            for pid in (task / "children").read_text().split():
                os.kill(int(pid), signal.SIGKILL)


# A check's function yields what it finds, and a str for what there is to say where all is well.
Findings = Iterable[Finding | str]
Finds = Callable[[], Findings | None]


@dataclass(frozen=True)
class Check:
    """A registered check."""

    name: str
    finds: Finds
    needs: tuple[str, ...] = ()
    limit: float = LIMIT

    def run(self, left: float) -> list[Result]:
        """Return its results (list of Result, at least one), within its limit and the `left` seconds."""
        try:
            return within(min(self.limit, left), self._run)
        except TimeoutError as late:
            mend = "find what does not answer: a directory service, a disk, a program (`ps -eo pid,stat,wchan:20,etime,args`)"
            return [Result(self.name, ERROR, f"this check cannot be done: {late}", "", mend)]

    def _run(self) -> list[Result]:
        found: list[Finding] = []
        said = ""
        try:
            for item in self.finds() or ():
                if isinstance(item, str):
                    said = item
                else:
                    found.append(item)
        except Finding as finding:
            found.append(finding)
        except Exception as error:  # noqa: BLE001 (whatever it is, the other checks go on)
            what = f"this check cannot be done: {type(error).__name__}: {one_line(error)}"
            return [Result(self.name, ERROR, what, "", "fix what it names, or report it")]
        if not found:
            return [Result(self.name, PASSED, said)]
        return [Result(self.name, finding.status, finding.what, finding.why, finding.mend) for finding in found]


CHECKS: list[Check] = []


def check(name: str, needs: Iterable[str] = (), limit: float = LIMIT) -> Callable[[Finds], Finds]:
    """Register the decorated generator function as a check called `name` (str), of use only where the checks `needs` (str) did not fail.

    It may take `limit` seconds.
    """

    def register(function: Finds) -> Finds:
        CHECKS.append(Check(name, function, tuple(needs), limit))
        return function

    return register


def run(checks: Iterable[Check]) -> Iterator[Result]:
    """Yield the results of `checks` (list of Check), in their order, within ALL seconds; a check comes after those that it needs."""
    bad: set[str] = set()
    until = time.monotonic() + ALL
    for each in checks:
        if grounds := [name for name in each.needs if name in bad]:
            bad.add(each.name)
            yield Result(each.name, SKIPPED, f"not looked at: {grounds[0]} comes first")
            continue
        results = each.run(until - time.monotonic())
        if any(result.status in (FAILED, ERROR) for result in results):
            bad.add(each.name)
        yield from results


def once(function: Callable[[], T]) -> Callable[[], T]:
    """Let a function without arguments be executed once, also when several threads ask; it keeps its answer."""
    lock, kept = threading.Lock(), functools.cache(function)

    @functools.wraps(function)
    def ask() -> T:
        with lock:
            return kept()

    return ask
