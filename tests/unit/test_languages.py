"""Which language JupyterLab takes, by what a browser asks for and which packs there are."""

import importlib.util
import pathlib

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
PACKS = {"de_DE", "fr_FR", "pt_BR", "pt_PT", "zh_CN", "zh_TW"}


@pytest.fixture(scope="module")
def choose():
    spec = importlib.util.spec_from_file_location("languages", TOP / "src/debianized_jupyterhub/languages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.choose


@pytest.mark.parametrize(
    "header, locale",
    [
        ("de-DE", "de_DE"),
        ("de", "de_DE"),
        ("de-AT,de;q=0.9,en;q=0.8", "de_DE"),
        ("en-US,en;q=0.9,de;q=0.8", "en"),
        ("de;q=0.2, fr;q=0.9", "fr_FR"),
        ("pt-PT", "pt_PT"),
        ("pt-BR,pt;q=0.9", "pt_BR"),
        ("zh-Hant-TW", "zh_TW"),
        ("ZH-cn", "zh_CN"),
        ("xx,fr;q=0.5", "fr_FR"),
        ("de;q=0, xx", "system"),
        ("de;q=much,fr", "fr_FR"),
        ("*", "system"),
        ("", "system"),
        (";,-;q=,", "system"),
    ],
)
def test_language(choose, header, locale):
    assert choose(header, PACKS, "system") == locale
