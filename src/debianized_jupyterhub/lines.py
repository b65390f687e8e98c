"""What programs, users and exceptions say, as one line for a terminal, a page or the journal."""


def one_line(text: object, longest: int | None = None) -> str:
    """Return `text` as one line (str) of at most `longest` characters: white space, and what a terminal would obey, become single spaces."""
    shown = " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())
    return shown if longest is None or len(shown) <= longest else f"{shown[: longest - 3]}..."


def joined(text: object) -> str:
    """Return the lines of `text`, such as a command's output, on one line (str), with " / " where one ends."""
    return " / ".join(shown for line in str(text).splitlines() if (shown := one_line(line)))
