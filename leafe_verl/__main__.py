"""`python -m leafe_verl`."""

import sys

from leafe_verl.cli import main

sys.exit(main())
