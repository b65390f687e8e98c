"""What depends on the machine: notebooks are exported to the formats that it can make, JupyterLab has the languages that are installed
on it, and what a server logs has a priority in the journal."""

import importlib.util
import os.path
import shutil
import sys

import tornado.websocket

from debianized_jupyterhub import journal

c = get_config()  # noqa: F821

# Up to 512 MB to a kernel at a time. As tornado's default, since Jupyter takes this folder's settings before those of
# /etc/jupyter: tornado_settings here would take a site's away.
tornado.websocket._default_max_message_size = 512 << 20

if journal.takes_errors():
    c.Application.logging_config = {"formatters": {"console": {"class": "debianized_jupyterhub.server_log.Formatter"}}}

# Language packs for all users; last, so that nothing there stands in for a module of the package.
LANGUAGES = "/usr/local/share/jupyterhub/languages"
if os.path.isdir(LANGUAGES):
    sys.path.append(LANGUAGES)

if not shutil.which("pandoc"):
    c.ASCIIDocExporter.enabled = c.LatexExporter.enabled = c.PDFExporter.enabled = c.RSTExporter.enabled = False
if not shutil.which("xelatex"):
    c.PDFExporter.enabled = False
if not importlib.util.find_spec("playwright"):
    c.WebPDFExporter.enabled = False
if not importlib.util.find_spec("PyQt5"):
    c.QtPDFExporter.enabled = c.QtPNGExporter.enabled = False
