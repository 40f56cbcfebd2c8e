"""Measurements of feeder and its peers. README.md in this folder says how to run them and what came out."""
