"""AGE-VLM as a Hugging Face model.

Its files import only each other, torch, transformers, timm, numpy and PIL, so that an exported folder can hold them.
"""
