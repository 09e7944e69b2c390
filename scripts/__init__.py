"""Programs for work on the project: its checks, releases and nightly runs."""
