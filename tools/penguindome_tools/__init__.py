"""The command line `penguindome`, and programs for building and testing."""
