"""`python -m capo_lit.cli` is `capo`."""

import sys

from capo_lit.cli.commands import main

sys.exit(main())
