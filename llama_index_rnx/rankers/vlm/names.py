"""Which names can mean a vision-language model. It loads nothing, and needs no torch."""

from __future__ import annotations

import os
import re

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def is_checkpoint_name(model: str) -> bool:
    """Return whether a name can be that of a checkpoint: a folder that exists, or `owner/name` of a
    hub.
    """
    return bool(model) and (os.path.isdir(model) or HUB_ID.fullmatch(model) is not None)
