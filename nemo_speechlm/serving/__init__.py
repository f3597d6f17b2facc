"""A page in the browser to try a model in, served by this machine alone."""
