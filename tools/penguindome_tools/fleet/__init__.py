"""A fleet that is simulated: devices with keys of their own whose reports change slowly, for load and fault tests."""
