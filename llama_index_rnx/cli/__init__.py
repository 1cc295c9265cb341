"""The command line `rnx`: options in, calls of the other rooms, tables and files out."""

from llama_index_rnx.cli.entry_point import app, main, program

__all__ = [
    "app",
    "main",
    "program",
]
