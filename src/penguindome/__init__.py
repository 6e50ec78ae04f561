"""What client, server and plugins share. Imports nothing of the server or of the command line."""
