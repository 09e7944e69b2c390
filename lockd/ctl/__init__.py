"""The command ``lockctl``, with one module for each of its commands."""
