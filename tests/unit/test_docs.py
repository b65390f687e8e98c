"""README.md and docs/: links lead somewhere, and every block of commands is run by a test or says why not."""

import re
import sys

import pytest

sys.path.insert(0, str(__file__).rpartition("/unit/")[0])
import blocks

LINK = re.compile(r"\]\(([^)#\s]+)?(?:#([^)\s]+))?\)")


def anchors(page):
    """Return the names that headings of a page have in links, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*blocks.PAGES, blocks.TOP / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    wrong = []
    for target, anchor in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(f"{target}#{anchor}")
    assert not wrong


def test_marks_give_reasons_that_exist():
    """What a mark names as the test that runs the commands instead is there."""
    tests = {name for block in blocks.ALL for name in re.findall(r"\b(test_\w+\.py)\b", block.why_not)}
    have = {file.name for file in (blocks.TOP / "tests").rglob("test_*.py")}
    assert tests and tests <= have


def test_marks_stand_before_blocks():
    """A mark that belongs to no block has been forgotten, or is misspelt."""
    for page in blocks.PAGES:
        marks = len(re.findall(r"<!-- not run", blocks.unfenced(page)))
        assert marks == len([block for block in blocks.blocks(page) if block.why_not and not blocks.PAGE_MARK.search(blocks.unfenced(page))]), page.name


def test_blocks_are_found():
    """Else the tests of them could not fail."""
    assert len([block for block in blocks.ALL if not block.why_not]) > 20
    assert any(block.text.startswith("apt install nginx") and not block.why_not for block in blocks.ALL)


# Phrases that no native administrator would say, and what they say instead: CONTRIBUTING.md, "Words".
PHRASES = {
    r"\b(?:notebooks?|servers?|hub|kernels?|it) goe?s? on\b": "keep running",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bout of order\b": "unavailable",
    r"\bat one glance\b": "at a glance",
    r"\bgarbage is looked for\b": "garbage collection",
    r"\bis no name of\b": "is not a valid ...",
    r"\bstays so\b": "stays ...",
}
PEOPLE_READ = [*blocks.PAGES, *(blocks.TOP / "debian/man").iterdir(), *(blocks.TOP / "src/pages").iterdir(), *(blocks.TOP / "etc").rglob("*")]


@pytest.mark.parametrize("phrase", PHRASES)
def test_words(phrase):
    files = [*PEOPLE_READ, blocks.TOP / "debian/jupyterhub.README.Debian", blocks.TOP / "debian/jupyterhub.postinst"]
    found = [
        f"{file.relative_to(blocks.TOP)}: {match[0]}"
        for file in files
        if file.is_file()
        for match in re.finditer(phrase, " ".join(file.read_text().split()), re.IGNORECASE)
    ]
    assert not found, f"say {PHRASES[phrase]!r}"
