"""Everything that verl and vLLM need to run without an accelerator."""
