"""What is done to a table of runs besides one fit: how Su et al. 2024 estimate their law (section 3) and use it (5)."""

from jaxscale.recipes.answers import Decisions, Estimate, decisions
from jaxscale.recipes.checks import Check, converged, endless_batch, endless_data
from jaxscale.recipes.contours import ContourScan, contour, contour_scan
from jaxscale.recipes.data_sources import Sources, sources
from jaxscale.recipes.mixing import Mix, best_ratios, optimal_mix
from jaxscale.recipes.sizes import ConvergedSizes, converged_sizes
from jaxscale.recipes.steps import AlongTrajectories, LargeBatchSteps, along_trajectories, large_batch_steps
from jaxscale.recipes.su2024 import Procedure, procedure

__all__ = ["AlongTrajectories", "Check", "ContourScan", "ConvergedSizes", "Decisions", "Estimate", "LargeBatchSteps",
           "Mix", "Procedure", "Sources", "along_trajectories", "best_ratios", "contour", "contour_scan", "converged",
           "converged_sizes", "decisions", "endless_batch", "endless_data", "large_batch_steps", "optimal_mix",
           "procedure", "sources"]
