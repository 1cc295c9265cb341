"""`rnx ui`: a page on this machine to ask an index and to add files to it."""

from llama_index_rnx.ui.app import create_page
from llama_index_rnx.ui.run import open_library, run_page

__all__ = [
    "create_page",
    "open_library",
    "run_page",
]
