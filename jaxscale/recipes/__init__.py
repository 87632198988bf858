"""What is done to a table of runs besides one fit.

How Su et al. 2024 estimate their law step by step (section 3), `procedure`, and what they use it for (5): `decisions`,
`sources`, `optimal_mix`. The three approaches of Hoffmann et al. 2022 to the compute-optimal model: `approaches`. The
study of Choshen et al. 2024 on families of models: `hitchhiker`. The rest of single runs: `learning_curves`.
"""

from jaxscale.recipes.answers import Decisions, Estimate, decisions
from jaxscale.recipes.approaches import Approaches, approaches
from jaxscale.recipes.checks import Check, converged, endless_batch, endless_data
from jaxscale.recipes.choices import Choices, choices
from jaxscale.recipes.compare import Comparison, TwoRecipes, compare
from jaxscale.recipes.contours import ContourScan, contour, contour_scan
from jaxscale.recipes.data_sources import Sources, sources
from jaxscale.recipes.envelope import Envelope, envelope
from jaxscale.recipes.hitchhiker import Hitchhiker, hitchhiker
from jaxscale.recipes.isoflop import Bias, IsoFlop, isoflop
from jaxscale.recipes.learning import Curve, LearningCurves, learning_curves
from jaxscale.recipes.mixing import Mix, best_ratios, optimal_mix
from jaxscale.recipes.noise import JointNoise, LossAndNoise, NoiseScale, NoiseTrend, joint_with_noise, noise_trend
from jaxscale.recipes.sizes import ConvergedSizes, converged_sizes
from jaxscale.recipes.steps import AlongTrajectories, LargeBatchSteps, along_trajectories, large_batch_steps
from jaxscale.recipes.su2024 import Procedure, procedure
from jaxscale.recipes.trends import Trend, power_law

__all__ = ["AlongTrajectories", "Approaches", "Bias", "Check", "Choices", "Comparison", "ContourScan",
           "ConvergedSizes", "Curve", "Decisions", "Envelope", "Estimate", "Hitchhiker", "IsoFlop", "JointNoise",
           "LargeBatchSteps", "LearningCurves", "LossAndNoise", "Mix", "NoiseScale", "NoiseTrend", "Procedure",
           "Sources", "Trend", "TwoRecipes", "along_trajectories", "approaches", "best_ratios", "choices", "compare",
           "contour", "contour_scan", "converged", "converged_sizes", "decisions", "endless_batch", "endless_data",
           "envelope", "hitchhiker", "isoflop", "joint_with_noise", "large_batch_steps", "learning_curves",
           "noise_trend", "optimal_mix", "power_law", "procedure", "sources"]
