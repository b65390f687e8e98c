"""What others say, as one line."""

import pytest

from debianized_jupyterhub.lines import joined, one_line


@pytest.mark.parametrize(
    "text, line",
    [
        ("  two\n\n lines\t", "two lines"),
        ("red \x1b[31mink\x07", "red [31mink"),
        ("right\u202eleft", "right left"),
        ("Grüße, 世界", "Grüße, 世界"),
        (ValueError("an\r\nexception"), "an exception"),
        ("\udcff", ""),  # what os.fsdecode() makes of other bytes; no terminal takes it
    ],
)
def test_one_line(text, line):
    assert one_line(text) == line


@pytest.mark.parametrize("longest, line", [(10, "0123456789"), (9, "012345..."), (None, "0123456789")])
def test_length(longest, line):
    assert one_line("0123456789", longest) == line


def test_lines_are_joined():
    assert joined("a\n\n  b\x1b[2J\r\n\x07\n c ") == "a / b [2J / c"
