"""`python -m leafe_verl.experiments [OVERRIDE...]`, which `recipes/compare_mbpp.sh` calls."""

import sys

from leafe_verl.experiments.comparison import main

main(sys.argv[1:])
