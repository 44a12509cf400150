"""The comparison of methods on one environment (`recipes/compare_mbpp.sh`), cell by cell."""
