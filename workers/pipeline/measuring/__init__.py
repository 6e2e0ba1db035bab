"""How the step `measure` obtains the curve and the sensitivity of every module."""
