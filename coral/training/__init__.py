"""Training: the only room that knows torch, transformers and PEFT."""
