"""AGE-VLM as a Hugging Face model.

Imports only its own files, torch, transformers, timm, numpy and PIL, so that an export carries its own code.
"""
