"""Everything that touches verl, ray, vllm or torch."""
