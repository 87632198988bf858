"""What is done to a table of runs besides one fit: the steps by which Su et al. 2024 estimate their law (section 3)."""

from jaxscale.recipes.contours import ContourScan, contour, contour_scan

__all__ = ["ContourScan", "contour", "contour_scan"]
