"""Export: a trained network as weights, as a graph for other runtimes, or as a web page."""
