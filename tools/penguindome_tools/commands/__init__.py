"""The verbs of `penguindome`: one module a noun, each exposing `command`."""
