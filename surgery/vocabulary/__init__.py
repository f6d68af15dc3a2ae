"""Vocabularies made smaller: a tokenizer.json and what names its ids, without the weights."""
