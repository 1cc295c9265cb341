"""The parts of `rnx serve` that know no ranker: what requests look like, who may send them, and how many bytes."""
