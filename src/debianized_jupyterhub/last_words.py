"""What a notebook server says when it ends while its user waits for it: one sentence for the page, through a pipe to the spawner gate.

debian/patches/python/jupyterhub-singleuser-last-words.patch has jupyterhub-singleuser call `begin` before it imports anything else, and run in `told`.
The mediator (src/libexec/sudospawner) has put the pipe beside the server's socket. It can be read only as long as the hub waits, and what is written
here is the user's word to himself: the gate makes one line of it that can be shown.
"""

import contextlib
import functools
import glob
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from . import limits
from .lines import one_line

VARIABLE = "JUPYTERHUB_LAST_WORDS"  # number of the open file


class _Ending:
    """What is known of the end of this process."""

    pipe: int | None = None  # who wants to hear of it
    complaint = ""  # the last error that was logged


def begin() -> None:
    """Have the end of this process explained, if it comes with an exception; nothing where nobody listens."""
    number = os.environ.pop(VARIABLE, "")
    if not number.isdecimal():
        return
    _Ending.pipe = int(number)
    os.set_inheritable(_Ending.pipe, False)
    os.set_blocking(_Ending.pipe, False)
    make_record, hook = logging.getLogRecordFactory(), sys.excepthook

    def remember(*args: Any, **options: Any) -> logging.LogRecord:
        record = make_record(*args, **options)
        if record.levelno >= logging.ERROR:
            _Ending.complaint = record.getMessage()
        return record

    def tell(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        hook(kind, error, where)
        _say(error)

    logging.setLogRecordFactory(remember)
    sys.excepthook = tell


def told(main: Callable[[], Any]) -> Callable[[], Any]:
    """Return the program `main` as one whose exit, which is no error to Python, is explained, too."""

    @functools.wraps(main)
    def run() -> Any:
        try:
            return main()
        except SystemExit as error:
            if error.code:
                _say(error)
            raise

    return run


def _say(error: BaseException) -> None:
    if _Ending.pipe is not None:
        with contextlib.suppress(Exception):  # whatever is wrong here, the journal has the error itself
            os.write(_Ending.pipe, sentence(error, _Ending.complaint).encode(errors="replace")[:1200])


def sentence(error: BaseException, complaint: str = "") -> str:
    """Return why a server has ended: what was wrong, and the file to look at with its owner. `complaint` is what was logged last."""
    causes = list(_causes(error))
    for cause in causes:
        if limit := limits.met_by(cause):
            return f"{limit}."
    for cause in causes:
        if isinstance(cause, PermissionError) and isinstance(cause.filename, str):
            return limits.forbidden(cause.filename, cause.strerror or "")
    first = next((cause for cause in causes if not isinstance(cause, SystemExit)), error)
    what, place = _in_short(first, complaint), "."
    with contextlib.suppress(Exception):  # the reason itself is worth more
        place = _place(causes, what)
    return f"{what}{place}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that it came from, each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _in_short(error: BaseException, complaint: str) -> str:
    """Return what an exception says, without places in memory; of an exit with a mere number the `complaint` before it."""
    if isinstance(error, SystemExit):
        text = error.code if isinstance(error.code, str) else complaint or f"it called exit({error.code})"
    elif type(error).__name__ == "TraitError":  # in its own words a sentence
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    return one_line(re.sub(r"<(?:\w+\.)*(\w+) object at 0x[0-9a-f]+>", r"\1", str(text))).rstrip(".")


def _place(causes: list[BaseException], what: str) -> str:
    """Return in which file of the user's or the site's the reason is, as the rest of a sentence."""
    place = _in_code(causes) or _in_settings([*_traits(causes), *_quoted(what)])
    if place:
        file, line = place
        return f". See line {line} of {file} (owner: {limits.owner(file)})."
    own = [file for folder in _folders()[:1] for file in _settings_in(folder)]
    return f". Your own settings are in {own[0]} (owner: {limits.owner(own[0])})." if own else "."


def _frames(causes: list[BaseException]) -> list[tuple[Any, int]]:
    return [found for cause in causes for found in traceback.walk_tb(cause.__traceback__)]


def _in_code(causes: list[BaseException]) -> tuple[str, int] | None:
    """Return file and line of the last call in code that is not the package's."""
    ours = tuple(os.path.join(folder, "") for folder in (sys.prefix, os.path.realpath(sys.prefix), os.path.dirname(os.__file__), os.path.dirname(__file__)))
    for error in causes:
        if isinstance(error, SyntaxError) and error.filename and os.path.isfile(error.filename):
            return error.filename, error.lineno or 1
    for frame, line in reversed(_frames(causes)):
        file = frame.f_code.co_filename
        if os.path.isabs(file) and not file.startswith(ours) and os.path.isfile(file):
            return file, line
    return None


def _traits(causes: list[BaseException]) -> Iterator[str]:
    """Yield the names of the settings that were being checked when the exceptions were raised."""
    for frame, _ in reversed(_frames(causes)):
        checker = frame.f_locals.get("self")
        if type(checker).__module__.startswith("traitlets") and isinstance(name := getattr(checker, "name", None), str):
            yield name


def _quoted(what: str) -> list[str]:
    """Return the words of a message that may be in a settings file: what it quotes, and options."""
    return [*re.findall(r"'([^']{3,})'", what), *re.findall(r"--(?:\w+\.)*(\w+)", what)]


def _folders() -> list[str]:
    """Return the folders of settings, the user's first, without the package's own."""
    from jupyter_core.paths import jupyter_config_path  # here, since it takes time, and may be what fails

    return [folder for folder in jupyter_config_path() if not os.path.realpath(folder).startswith(os.path.realpath(sys.prefix))]


def _settings_in(folder: str) -> list[str]:
    return sorted(file for pattern in ("*config.py", "*config.json", "*config.d/*.json") for file in glob.glob(f"{folder}/{pattern}") if os.path.isfile(file))


def _in_settings(names: list[str]) -> tuple[str, int] | None:
    """Return file and line where the first of `names` that is in a settings file is."""
    for name in dict.fromkeys(names):
        word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
        for file in (file for folder in _folders() for file in _settings_in(folder)):
            with contextlib.suppress(OSError), open(file, errors="replace") as lines:
                for number, line in enumerate(lines, start=1):
                    if word.search(line) and not line.lstrip().startswith("#"):
                        return file, number
    return None
