"""The server: the web application, the store, checks and issues."""
