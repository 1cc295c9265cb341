"""Imports that stay: no garbage is looked for among them, and all else is as before."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc, weakref
from llama_index_rnx.system import lasting_imports

class Node: ...

def circle():
    node = Node()
    node.itself = node
    return weakref.ref(node)

{before}
was_enabled, frozen = gc.isenabled(), gc.get_freeze_count()
try:
    with lasting_imports():
        assert not gc.isenabled()
        import decimal
        {fault}
except ImportError:
    pass
assert gc.isenabled() == was_enabled
assert gc.get_freeze_count() > frozen

frozen = gc.get_freeze_count()
with lasting_imports():
    import decimal
assert gc.get_freeze_count() == frozen, "nothing was imported"

later = circle()
gc.collect()
assert later() is None, "what comes later is collected"
"""


@pytest.mark.parametrize("before", ["", "gc.disable()"], ids=["enabled", "disabled"])
@pytest.mark.parametrize("fault", ["pass", "import no_such_module"])
def test_what_stays_is_not_looked_through_and_the_rest_is_as_before(
    before: str, fault: str
) -> None:
    program = PROGRAM.format(before=before, fault=fault)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
