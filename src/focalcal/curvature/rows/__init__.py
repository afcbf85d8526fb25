"""What single rows tell: their curvature, and the error that the choice of rows leaves."""
