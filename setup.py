"""Metadata of debianized-jupyterhub, and the one place where its Python dependencies are named.

Everything here is pinned; what these packages need in turn is pinned in requirements.txt, the
lock that `./build.sh --update` makes from this file for CPython 3.11 to 3.14. A pin is the newest
version that all four can install, as a wheel unless it is listed in SDISTS.

`setup()` runs only as a program, so debian/select-requirements and the tests read the names below
without setuptools.
"""

import re
from pathlib import Path

CORE = [
    "jupyterhub==6.1.1",
    "jupyterlab==4.6.6",
    "notebook==7.6.5",
    "sudospawner==1.0.0",
    "pamela==1.2.0",
    "ipywidgets==8.1.9",
    # jupyterhub-ctl
    "click==8.5.1",
    "rich==15.0.0",
    # users' own packages in the bundled kernel
    "pip==26.3",
    # memory in the status bar
    "jupyter-resource-usage==1.3.0",
]

# Plots in the notebook, without scipy (20 MB in the .deb), panel and bokeh (25 MB): part of viz.
PLOT = [
    "matplotlib==3.11.2",
    "ipympl==0.10.0",
    "seaborn==0.13.2",
    "colorcet==3.2.1",
    "wordcloud==1.9.6",
]

EXTRAS = {
    # arrays and tables
    "base": [
        "numpy==2.4.6",
        "pandas==3.1.1",
        "numexpr==2.14.2",
        "bottleneck==1.6.0",
        "networkx==3.6.1",
    ],
    # the part of viz that default ships
    "plot": PLOT,
    # statistical and explorative plots
    "viz": [
        *PLOT,
        "holoviews==1.23.2",
        "hvplot==0.12.2",
        "plotnine==0.15.9",
        "missingno==0.5.2",
    ],
    # plots drawn by the browser; SVG and PNG: vl-convert for altair by itself, selenium for bokeh
    # and kaleido for plotly with the machine's chromium
    "vizjs": [
        "bokeh==3.9.2",
        "jupyter-bokeh==4.1.0",
        "plotly==7.1.0",
        "altair==6.3.0",
        "anywidget==0.11.0",
        "vega-datasets==0.9.0",
        "vl-convert-python==1.9.0.post1",
        "selenium==4.51.0",
        "kaleido==1.5.0",
    ],
    # learning and statistics that need no GPU
    "ml": [
        "scipy==1.17.1",
        "scikit-learn==1.9.1",
        "statsmodels==0.15.0",
        "xgboost-cpu==3.2.0",
    ],
    # pictures
    "img": ["scikit-image==0.26.0", "imageio==2.38.1"],
    # texts; models and corpora are downloaded by the user
    "nlp": ["spacy==3.8.18", "nltk==3.10.4", "textblob==0.20.1"],
    # columnar data, and pandas' faster strings
    "arrow": ["pyarrow==26.0.1"],
    # parquet files without arrow
    "parquet": ["fastparquet==2026.9.0"],
    # Spark; wants a Java runtime, see JUPYTERHUB_JAVA_HOME
    "spark": ["pyspark==4.3.0"],
    # for hubs that spawn containers
    "docker": ["dockerspawner==14.0.0"],
    # other ways to log in than PAM, see docs/authenticators.md
    "auth": [
        "jupyterhub-ldapauthenticator==2.0.2",
        "jupyterhub-nativeauthenticator==1.3.0",
        "jupyterhub-firstuseauthenticator==1.1.1",
        "oauthenticator==17.4.0",
    ],
    # the hub's database on a PostgreSQL server
    "postgresql": ["psycopg==3.3.9", "psycopg-binary==3.3.9"],
    # reports and dashboards; not in default since each notebook server loads their extensions
    "publish": ["papermill==2.7.0", "voila==0.5.13", "nbdime==4.0.4", "jupytext==1.19.6"],
    # small helpers
    "utils": [
        "itables==2.9.1",
        "jupyter-console==6.6.3",
        "openpyxl==3.1.5",
        "pillow==13.0.0",
        "requests==2.34.2",
        "tabulate==0.10.0",
        "tqdm==4.70.1",
        "xlrd==2.0.2",
        "xlsxwriter==3.3.1",
    ],
}

TEMPLATES = ("403", "404", "admin", "error", "home", "login", "news", "not_running", "oauth", "spawn_pending", "start_bare", "token")


def union(names):
    """Return the sorted requirements (list of str) of the extras called `names` (iterable of str)."""
    return sorted({requirement for name in names for requirement in EXTRAS[name]})


EXTRAS |= {"default": union(["base", "plot", "docker", "auth", "postgresql", "utils"]), "full": union(EXTRAS)}

# There is no wheel of these. Their lock entry is the source's hash; the build uses Debian's setuptools.
SDISTS = {"onetimepass", "pyspark"}


def version():
    """Return the package's version (str, PEP 440) from the first line of debian/changelog.

    Raises SystemExit with one line when there is none.
    """
    changelog = Path(__file__).resolve().parent / "debian/changelog"
    try:
        with changelog.open(encoding="utf-8") as lines:
            first = lines.readline()
    except OSError as error:
        raise SystemExit(f"setup.py: the version comes from debian/changelog: {error}") from None
    found = re.match(r"jupyterhub \((\d[\d.]*(?:\+[a-z0-9.]+)?)\) ", first)
    if not found:
        raise SystemExit(f"setup.py: {changelog}: line 1 must read like 'jupyterhub (6.1.1.1) trixie; ...', not {first.strip()!r}")
    return found[1]


if __name__ == "__main__":
    from setuptools import find_packages, setup

    setup(
        name="debianized-jupyterhub",
        version=version(),
        description="JupyterHub with JupyterLab as one Debian package",
        license="BSD-3-Clause",
        python_requires=">=3.11",
        package_dir={"": "src"},
        packages=find_packages("src"),
        # Settings and an extension of notebook servers, see src/jupyter/README.
        data_files=[
            (
                "share/jupyter/labextensions/jupyterhub-environment-record",
                ["src/jupyter/environment-record/package.json", "src/jupyter/environment-record/environment-record.js"],
            ),
            (
                "share/jupyter/labextensions/jupyterhub-message",
                ["src/jupyter/message/package.json", "src/jupyter/message/message.js"],
            ),
            (
                "share/jupyter/labextensions/jupyterhub-patient-cells",
                ["src/jupyter/patient-cells/package.json", "src/jupyter/patient-cells/patient-cells.js"],
            ),
            (
                "share/jupyter/labextensions/jupyterhub-without-packages",
                ["src/jupyter/without-packages/package.json", "src/jupyter/without-packages/without-packages.js"],
            ),
            ("etc/jupyter", ["src/jupyter/jupyter_server_config.json", "src/jupyter/jupyter_server_config.py"]),
            ("etc/jupyter/jupyter_server_config.d", ["src/jupyter/resource-usage.json"]),
            ("etc/jupyter/labconfig", ["src/jupyter/labconfig/page_config.json"]),
            ("share/jupyterhub/debianized", [f"src/templates/{name}.html" for name in TEMPLATES]),
        ],
        install_requires=CORE,
        extras_require=EXTRAS,
    )
