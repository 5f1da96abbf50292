"""The miniature world: rendered scenes, their language, and tiny models of the real classes trained on them
from scratch.
"""
