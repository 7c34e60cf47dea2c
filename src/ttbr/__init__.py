"""AArch64 translation tables: plan, build, prove, run, read."""

__version__ = "0.1.0"
