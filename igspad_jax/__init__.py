"""Pose-agnostic anomaly detection by inverting 3D Gaussian Splatting, in JAX."""
