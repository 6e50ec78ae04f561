"""Makes releases of the clients: packages with the site's settings, plugins and commands, numbered and signed."""
