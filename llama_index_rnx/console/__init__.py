"""Output to a terminal: clean text, a console, progress bars. It knows no nodes and no models."""

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "Bar",
    "JsonLines",
    "SafeConsole",
    "clean_what_python_prints",
    "is_unicode",
    "note_if_slow",
    "print_html",
    "print_json",
    "print_note",
    "print_text",
    "progress_bar",
]

if TYPE_CHECKING:
    from llama_index_rnx.console.progress import Bar, JsonLines, note_if_slow, progress_bar
    from llama_index_rnx.console.safe_console import SafeConsole
    from llama_index_rnx.console.streams import (
        clean_what_python_prints,
        is_unicode,
        print_html,
        print_json,
        print_note,
        print_text,
    )
else:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "progress": [
                "Bar",
                "JsonLines",
                "note_if_slow",
                "progress_bar",
            ],
            "safe_console": [
                "SafeConsole",
            ],
            "streams": [
                "clean_what_python_prints",
                "is_unicode",
                "print_html",
                "print_json",
                "print_note",
                "print_text",
            ],
        },
    )
