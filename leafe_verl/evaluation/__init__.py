"""Computes how good a policy is, from the attempts of an evaluation or the metrics of a run."""

from leafe_verl.evaluation.pass_at_k import ks_up_to, mean_pass_at_k, pass_at_k

__all__ = ["ks_up_to", "mean_pass_at_k", "pass_at_k"]
