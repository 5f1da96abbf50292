"""AGE-VLM as a Hugging Face model. Imports only its own files, torch, transformers, timm, numpy and PIL: an export carries this folder."""
