"""The endpoints of the wire protocol: each parses, calls one function of the domain, and answers."""
