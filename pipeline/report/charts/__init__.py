"""Charts and the graph of steps as inline SVG, which follows the page's light or dark colours.

Coordinates are rounded to a tenth of a pixel, so equal inputs give equal text. Colours are CSS classes (`c-<name>`),
defined in the page's style sheet from a palette for colour-blind readers; every line and dot also carries its name.
"""
