"""Sphinx's settings for the documentation: `make docs` builds it, without a network and without a
warning.
"""

from __future__ import annotations

import sys
from pathlib import Path
from shutil import copy2

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

import llama_index_rnx  # noqa: E402

for notebook in (ROOT / "notebooks").glob("*.ipynb"):  # Sphinx reads what lies below docs/ only
    copy2(notebook, DOCS / "notebooks")

project = "llama-index-rnx"
author = "the authors of llama-index-rnx"
html_show_copyright = False
release = version = llama_index_rnx.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "building.commands",
    "building.drawings",
    "building.fields",
    "building.rooms",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
nb_execution_mode = "off"  # `make notebooks` runs them
exclude_patterns = ["building"]

html_theme = "furo"
html_title = "llama-index-rnx"
smartquotes_action = "D"  # dashes only: quotes stay as they can be typed
html_static_path = ["building/static"]
html_css_files = ["site.css"]
html_copy_source = False
pygments_dark_style = "github-dark"

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_url_schemes = {
    "http": None,
    "https": None,
    "mailto": None,
    "source": "https://github.com/llama-index-rnx/llama-index-rnx/blob/main/{{path}}",
}

autodoc_inherit_docstrings = False  # LlamaIndex's are no reStructuredText
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_default_options = {
    "members": True,
    "exclude-members": "class_name, model_post_init, model_config",
}
napoleon_numpy_docstring = False
default_role = "code"  # single backticks in docstrings are code
add_module_names = False
python_maximum_signature_line_length = 100

nitpicky = True
nitpick_ignore_regex = [
    # Other packages' names would need their sites.
    (r"py:.*", r"(?!llama_index_rnx\b).*"),
    # Type variables and aliases have no entry of their own.
    (r"py:class", r"llama_index_rnx\.[\w.]+\.(T|R|Result|Given|Batch|[A-Z]\w+Of)"),
]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
