"""The page that segments in a browser: build.py makes one HTML file of the sources and of a network's weights."""
