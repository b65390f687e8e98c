"""Each selection of extras does what it is for: the notebooks of docs/examples/notebooks run in the package, opened by a user in JupyterLab.

EXTRAS names the selection that the package in dist/ was built with; tests/extras builds and tests them all.
"""

import contextlib
import json
import os
import re
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
from browser import SLOW, TOP, idle, lab_of, menu, wait_for_lab
from harness import wait_for
from hubclient import KernelError
from playwright.sync_api import expect

pytestmark = pytest.mark.slow("tests/extras builds each selection and runs its notebooks, this one as well")

NOTEBOOKS = TOP / "docs/examples/notebooks"


class Notebook(NamedTuple):
    """What is to be seen when it has run."""

    shows: tuple = ()  # CSS selectors, one for each kind of output
    files: tuple = ()  # pictures that it writes, beside it
    says: tuple = ()  # parts of its text
    logs: bool = False  # does it log to stderr, where all is well?


class Selection(NamedTuple):
    """What a selection of extras is good for."""

    notebooks: tuple
    packages: tuple = ()  # Debian packages that the notebooks need beside jupyterhub


PICTURE, BOKEH = ".jp-RenderedImage img", ".jp-OutputArea-output .bk-Figure"
BOOKS = {
    "plots": Notebook(
        (".jp-RenderedHTML table", PICTURE, ".jupyter-matplotlib canvas"),
        ("temperature.svg", "temperature.png", "pairs.png"),
    ),
    "statistical-plots": Notebook((PICTURE, BOKEH), ("points.svg", "points.png", "flowers.svg")),
    "browser-plots": Notebook(
        (BOKEH, ".js-plotly-plot canvas", ".vega-embed canvas, .vega-embed svg"),
        ("waves.png", "waves.svg", "hill.png", "sine.svg", "functions.svg", "functions.png"),
    ),
    "spark": Notebook(says=("|333333|", "workers: /opt/venvs/jupyterhub", "[('be', 2), ('not', 1), ('or', 1), ('to', 2)]"), logs=True),
}
CHROMIUM, JAVA = ("chromium", "chromium-driver"), ("default-jre-headless",)
SELECTIONS = {
    "none": Selection(()),
    "default": Selection(("plots",)),
    "viz": Selection(("plots", "statistical-plots")),
    "vizjs": Selection(("browser-plots",), CHROMIUM),
    "spark": Selection(("spark",), JAVA),
    "full": Selection(("plots", "statistical-plots", "browser-plots", "spark"), CHROMIUM + JAVA),
}
SELECTED = SELECTIONS.get(os.environ.get("EXTRAS") or "default", Selection(()))
PACKAGES = SELECTED.packages
with_spark = pytest.mark.skipif("spark" not in SELECTED.notebooks, reason="EXTRAS has no spark")


@pytest.fixture(scope="module")
def page(machine, hub, browser):
    """JupyterLab of alice, who has all notebooks in her home."""
    machine.add_user("alice")
    for name in SELECTED.notebooks:
        machine.push(NOTEBOOKS / f"{name}.ipynb", "/home/alice")
    machine.sh("chown alice: /home/alice/*.ipynb || true")
    return lab_of(browser, "alice")


def run(page, name):
    """Open a notebook in a workspace of its own, run all cells and save it."""
    page.goto(f"user/alice/lab/workspaces/{name}/tree/{name}.ipynb")
    wait_for_lab(page)
    idle(page)
    menu(page, "Run", "Run All Cells")
    last = page.locator(".jp-NotebookPanel:visible .jp-CodeCell").last
    ran = last.locator(".jp-InputPrompt").filter(has_text=re.compile(r"\[\d+\]:"))
    stopped = page.locator("[data-mime-type='application/vnd.jupyter.error']")
    expect(ran.or_(stopped).first).to_be_visible(timeout=3 * SLOW)
    menu(page, "File", "Save Notebook")


def outputs(machine, name):
    """Return the outputs of a notebook (list of dict) as it was saved after the run."""

    def saved():
        with contextlib.suppress(json.JSONDecodeError):  # while it is written
            cells = [cell for cell in json.loads(machine.sh(f"cat /home/alice/{name}.ipynb"))["cells"] if cell["cell_type"] == "code"]
            return cells if cells[0]["execution_count"] else None

    cells = wait_for(saved, f"{name} is saved", timeout=30, every=0.5)
    return [output for cell in cells for output in cell["outputs"]]


def is_picture(content):
    """Are these bytes all of a picture, in the format PNG or SVG?"""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content.endswith(b"IEND\xaeB`\x82")
    return ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("name", SELECTED.notebooks)
def test_notebook(machine, browser, page, name):
    """All cells run without complaints, what they draw is to be seen, and the files they write are pictures."""
    book = BOOKS[name]
    run(page, name)
    found = outputs(machine, name)
    assert [output for output in found if output["output_type"] == "error"] == []
    assert book.logs or [output for output in found if output.get("name") == "stderr"] == []
    texts = [*(output.get("text", []) for output in found), *(output.get("data", {}).get("text/plain", []) for output in found)]
    text = "".join(part for parts in texts for part in parts)
    assert [part for part in book.says if part not in text] == []
    for number, selector in enumerate(book.shows):
        shown = page.locator(".jp-NotebookPanel:visible").locator(selector).first
        shown.scroll_into_view_if_needed()
        expect(shown).to_be_visible(timeout=SLOW)
        browser.screenshot(page, f"{name}-{number}")
    for file in book.files:
        content = (machine.root / "home/alice" / file).read_bytes()
        assert is_picture(content) and len(content) > 2000, file


JOB = "import pyspark.sql; java = pyspark.sql.SparkSession.builder.getOrCreate()._jvm.java.lang.System; print(java.getProperty('java.home'))"


def java_of(user):
    """Return the folder of the Java that a Spark of `user` runs on (str), in a server that is started for it; raises KernelError without one."""
    try:
        return user.run_cell(JOB, timeout=120).splitlines()[-1]  # after Spark's log
    finally:
        user.stop()


@with_spark
def test_debians_java_is_found(machine, hub):
    machine.add_user("bob")
    assert java_of(hub.login("bob", "secret")) == machine.sh("readlink -f /usr/lib/jvm/default-java")


@with_spark
def test_another_java_is_found_by_the_setting(machine, hub):
    """Moved to where nobody looks; no link leads there."""
    machine.sh("mv $(readlink -f /usr/lib/jvm/default-java) /opt/jre; rm /usr/lib/jvm/default-java /usr/bin/java")
    bob = hub.login("bob", "secret")
    with pytest.raises(KernelError, match=r"JAVA_GATEWAY_EXITED|JAVA_HOME"):
        java_of(bob)
    machine.sh("sed -i 's,^JUPYTERHUB_JAVA_HOME=.*,JUPYTERHUB_JAVA_HOME=/opt/jre,' /etc/default/jupyterhub; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub is back", timeout=30)
    assert java_of(bob) == "/opt/jre"
