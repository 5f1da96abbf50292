"""The proof of alignment: rows of a guided stage go through the real reader and collator, and are judged from outside.

Nothing here uses the code that it judges: not the offsets of the pack, not the letterbox, not the EXIF rotation and not
the rule for cells. It derives what a row should show from the row of MASKS and the image file, and compares.
"""
