"""`python -m flatmin`."""

import os
import sys

# `python -m` puts the working directory first: what lies there is data, and no module of it is imported. Without
# pathlib, which would be looked for there; and not where flatmin itself is run from its source.
_here, _home = os.getcwd(), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH109, PTH120
if not sys.flags.safe_path and sys.path[:1] in ([""], [_here]) and os.path.realpath(_home) != os.path.realpath(_here):
    del sys.path[0]

from flatmin.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
