"""What a person sees of a run: its phases, figures, warnings and end, while all else goes to RUN_DIR/log.txt."""
