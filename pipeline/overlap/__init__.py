"""Duplicates inside a data set, and images that two data sets share. Memory does not grow with the data."""
