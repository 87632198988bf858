"""What is done to a table of runs besides one fit: the steps by which Su et al. 2024 estimate their law (section 3)."""

from jaxscale.recipes.checks import Check, converged, endless_batch, endless_data
from jaxscale.recipes.contours import ContourScan, contour, contour_scan
from jaxscale.recipes.decisions import Decisions, Estimate, decisions
from jaxscale.recipes.procedure import Procedure, procedure
from jaxscale.recipes.sizes import ConvergedSizes, converged_sizes
from jaxscale.recipes.steps import AlongTrajectories, LargeBatchSteps, along_trajectories, large_batch_steps

__all__ = ["AlongTrajectories", "Check", "ContourScan", "ConvergedSizes", "Decisions", "Estimate", "LargeBatchSteps",
           "Procedure", "along_trajectories", "contour", "contour_scan", "converged", "converged_sizes", "decisions",
           "endless_batch", "endless_data", "large_batch_steps", "procedure"]
