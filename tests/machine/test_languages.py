"""JupyterLab in the language of the browser, where its pack is installed as docs/configuration.md says."""

import importlib.metadata

import pytest
from browser import SLOW, log_in, wait_for_lab
from cases import further
from playwright.sync_api import expect

PACKS = {"de-DE": "Datei", "fr-FR": "Fichier", "zh-CN": "文件"}  # of the tests' requirements: language, the first menu
FOLDER = "/usr/local/share/jupyterhub/languages"


@pytest.fixture(scope="module", autouse=True)
def packs(machine, hub):
    """The packs, as pip --target installs them; alice has a server that was started after that."""
    machine.add_user("alice")
    for pack in PACKS:
        for file in importlib.metadata.files(f"jupyterlab-language-pack-{pack}"):
            if file.suffix != ".pyc":
                machine.sh(f"mkdir -p {FOLDER}/{file.parent}")
                machine.push(file.locate(), f"{FOLDER}/{file.parent}")
    hub.login("alice", "secret").spawn()


def first_menu(browser, language, shot):
    """Return the name (str) of JupyterLab's first menu for a browser that asks for `language`."""
    with browser.page(locale=language) as page:
        log_in(page, "alice", "secret")
        wait_for_lab(page)
        name = page.locator("#jp-MainMenu .lm-MenuBar-itemLabel").first
        expect(name).to_be_visible(timeout=SLOW)
        if shot:
            browser.screenshot(page, f"language-{language}")
        return name.inner_text()


@pytest.mark.parametrize("language", further(["de-DE", "fr-FR", "zh-CN"], ["de-DE"], "further packs, added by the same lines"))
def test_language_of_the_browser(browser, language):
    assert first_menu(browser, language, shot=True) == PACKS[language]


@pytest.mark.parametrize("language", further(["en-GB", "nl-NL"], [], "English is what there is without any pack"))
def test_english_without_a_pack(browser, language):
    """And for English, though other packs are there."""
    assert first_menu(browser, language, shot=False) == "File"


@pytest.mark.slow("a list's order")
def test_next_best_language(browser):
    """A browser of Austria has German as it is written in Germany."""
    assert first_menu(browser, "de-AT", shot=False) == "Datei"


@pytest.mark.slow("JupyterLab's own; the language of the browser is ours")
def test_setting_of_the_user_comes_first(machine, browser):
    """Settings > Language, as JupyterLab stores it."""
    folder = "/home/alice/.jupyter/lab/user-settings/@jupyterlab/translation-extension"
    machine.sh(f"mkdir -p {folder}", user="alice")
    machine.write(f"{folder}/plugin.jupyterlab-settings", '{"locale": "fr_FR"}')
    try:
        assert first_menu(browser, "de-DE", shot=False) == "Fichier"
    finally:
        machine.sh(f"rm -r {folder}")
