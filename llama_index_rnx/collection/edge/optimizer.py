"""A process that optimizes the files of one engine: `python -P optimizer.py FOLDER`.

It is run as a file of its own, and imports nothing of this package, to start at once.
"""

import sys

import qdrant_edge as edge

if __name__ == "__main__":
    shard = edge.EdgeShard.load(sys.argv[1])
    shard.optimize()
    shard.flush()
    shard.close()
