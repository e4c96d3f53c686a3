"""How Sphinx builds docs/ as a site: ``make docs``. Docstrings are those of run time, also of Cython's."""

import dsmem

project = "dsmem"
author = "the authors of dsmem"
release = version = dsmem.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["conf.py"]
html_theme = "furo"
html_title = f"dsmem {version}"
html_show_copyright = False
html_show_sourcelink = False

autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autoclass_content = "class"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 100

# Annotations stand in signatures by the names that the source gives them.
autodoc_type_aliases = {name: name for name in ("ArrayLike", "DTypeLike", "NDArray", "Buffer", "Format", "Lifetime")}
CALLED = {  # by users; other classes are made by a factory, and exceptions by dsmem
    "dsmem.Context",
    "dsmem.Descriptor",
    "dsmem.queue.Pickled",
    "dsmem.queue.Stamped",
    "dsmem.clock.Deadline",
    "dsmem.clock.Lamport",
    "dsmem.clock.HybridClock",
}


def _signature(app, what, name, obj, options, arguments, returns):
    return ("", "") if arguments and what in ("class", "exception") and name not in CALLED else None


def setup(app):
    """Leave out the signatures of classes that users do not call."""
    app.connect("autodoc-process-signature", _signature)
