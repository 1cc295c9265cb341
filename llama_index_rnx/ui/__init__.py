"""`rnx ui`: a page on this machine to ask an index and to add files to it."""

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "MAX_UPLOAD_BYTES",
    "PageLimits",
    "create_page",
    "open_library",
    "run_page",
]

if TYPE_CHECKING:
    from llama_index_rnx.ui.app import create_page
    from llama_index_rnx.ui.limits import MAX_UPLOAD_BYTES, PageLimits
    from llama_index_rnx.ui.run import open_library, run_page
else:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "app": [
                "create_page",
            ],
            "limits": [
                "MAX_UPLOAD_BYTES",
                "PageLimits",
            ],
            "run": [
                "open_library",
                "run_page",
            ],
        },
    )
