"""How good a policy is."""

from leafe_verl.evaluation.pass_at_k import ks_up_to, mean_pass_at_k, pass_at_k

__all__ = ["ks_up_to", "mean_pass_at_k", "pass_at_k"]
