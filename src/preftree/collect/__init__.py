"""People compare responses: a project file, its queue, a web page and a terminal, and the votes as training data."""
