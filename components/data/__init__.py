"""From documents to rows of tokens: corpora, tokenizers, packing, order."""
