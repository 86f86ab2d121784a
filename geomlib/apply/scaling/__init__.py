"""Scaling laws of training runs: constants with uncertainty, and the best net and data for a given compute."""

from geomlib.apply.scaling.bayesian import Band, Optimum, Posterior, Scaling, fit_scaling

__all__ = ["Band", "Optimum", "Posterior", "Scaling", "fit_scaling"]
