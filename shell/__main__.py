"""python -m eventdb_shell is the same as eventdb."""

import sys

from .cli import main

sys.exit(main())
