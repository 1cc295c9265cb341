"""`python -m llama_index_rnx.cli`: the command line without an installed `rnx`."""

from llama_index_rnx.cli.entry_point import program

program()
