"""`make bench`: what the hot paths cost, beside the least that the same stack could cost."""
