"""The blocks of commands in README.md and docs/, for tests/unit/test_docs.py and tests/machine/test_docs.py.

A block is indented by four or more spaces, with an empty line before and after it. `<!-- not run: REASON -->` before one, or
`<!-- no block of this page is run: REASON -->` at the top of a page, is its mark; the reason says who runs it instead, or why nobody does.
"""

import pathlib
import re
import typing

TOP = pathlib.Path(__file__).resolve().parents[1]
PAGES = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]
MARK = re.compile(r"<!-- not run: (.+) -->")
PAGE_MARK = re.compile(r"<!-- no block of this page is run: (.+) -->")
# Settings, lines of Python and what goes into files: no commands.
OTHER = re.compile(r"(c = get_config\(\)|c\.|class |from |Runas_Alias |JUPYTERHUB_\w+=|registry=)")


class Block(typing.NamedTuple):
    """Commands of a page (str, its name), from a line (int, from 1) on; `why_not` (str) is the mark's reason, or empty."""

    page: str
    line: int
    text: str
    why_not: str


def unfenced(page: pathlib.Path) -> str:
    """Return the page's text with what is fenced (drawings, lists, other languages) left empty."""
    return re.sub(r"(?ms)^```.*?^```", lambda fenced: "\n" * fenced[0].count("\n"), page.read_text())


def blocks(page: pathlib.Path) -> list[Block]:
    """Return the page's blocks of commands, in order."""
    text = unfenced(page)
    whole = PAGE_MARK.search(text)
    found, mark = [], ""
    for part in re.finditer(r"(?m)(?:^.*\S.*\n)+", text):
        if not all(line.startswith("    ") for line in part[0].splitlines()) or OTHER.match(part[0].strip()):
            own = MARK.fullmatch(part[0].strip())
            mark = own[1] if own else ""
            continue
        commands = "\n".join(line.strip() if not line.startswith("        ") else line for line in part[0].splitlines()) + "\n"
        found.append(Block(page.name, text.count("\n", 0, part.start()) + 1, commands, whole[1] if whole else mark))
        mark = ""
    return found


ALL = [block for page in PAGES for block in blocks(page)]
