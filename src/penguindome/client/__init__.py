"""The client: one short process a minute that collects, signs and submits."""
