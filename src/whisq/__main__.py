"""``python -m whisq``, for where the command is not on the path."""

import sys

from whisq.cli import main

sys.exit(main())
