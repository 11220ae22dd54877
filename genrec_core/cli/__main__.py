"""``python -m genrec_core.cli`` is ``genrec``."""

import sys

from genrec_core.cli.main import main

sys.exit(main())
