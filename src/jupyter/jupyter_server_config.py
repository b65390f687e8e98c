"""Notebooks are exported to the formats that this machine can make: JupyterLab's menu offers no other."""

import importlib.util
import shutil

c = get_config()  # noqa: F821

if not shutil.which("pandoc"):
    c.ASCIIDocExporter.enabled = c.LatexExporter.enabled = c.PDFExporter.enabled = c.RSTExporter.enabled = False
if not shutil.which("xelatex"):
    c.PDFExporter.enabled = False
if not importlib.util.find_spec("playwright"):
    c.WebPDFExporter.enabled = False
if not importlib.util.find_spec("PyQt5"):
    c.QtPDFExporter.enabled = c.QtPNGExporter.enabled = False
