"""Refuses what would stop or spoil a run, before Ray starts: what came, what was expected, which setting to change."""
