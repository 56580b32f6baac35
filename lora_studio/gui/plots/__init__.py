"""Live curves: data that keeps its extremes however it is thinned, and the plots that draw it.

Importing the plots imports pyqtgraph and numpy, so the window does it after its first paint.
"""
