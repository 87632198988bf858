"""What others fit scaling laws with, each as a function of plain arrays that returns constants and its own objective.

`additive`: NumPy and SciPy on L = E + A / N^alpha + B / D^beta. `implicit`: the same for L(N, S, B). `gradient`: optax
and optimistix on both. `published`: tools from PyPI, run in a process of their own. None of it imports jaxscale, so
that what agrees with it is confirmed.
"""
