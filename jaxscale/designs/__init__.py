"""Before a fit is trusted: which questions can this table answer, and which not?

A table whose runs all have 20 tokens a parameter tells the loss along that ray and hardly anything besides: E, alpha
and beta come out, each with an error that the fit alone does not make one suspect. What a table knows is its Fisher
information J' W J, J the slopes of the rows' residuals in the unconstrained constants (logs of positive ones), W the
inverse covariance of their scatter: rows of one run are taken as correlated, as they wander (`wander`).
"""

from jaxscale.designs.advice import Advice
from jaxscale.designs.designs import Design, design
from jaxscale.designs.fisher import Known

__all__ = ["Advice", "Design", "Known", "design"]
