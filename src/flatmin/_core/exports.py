"""What a room shows: the names that its `__init__` imports, without the modules that Python puts beside them."""

import types
from typing import Any


def export(namespace: dict[str, Any], *modules: str) -> None:
    """Set `__all__` and `__dir__` of a room to the public names that it has by now.

    A room imports what is public as `from flatmin.room.file import Name as Name`, and ends with `export(globals())`.

    Args:
        namespace: `globals()` of the room.
        *modules: submodules that are public themselves.
    """
    names = sorted(
        name
        for name, value in namespace.items()
        if not name.startswith("_") and (name in modules or not isinstance(value, types.ModuleType))
    )
    namespace["__all__"] = names
    namespace["__dir__"] = lambda: names
