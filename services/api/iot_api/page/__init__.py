"""The live page: static files, and uPlot, which draws the plots."""
