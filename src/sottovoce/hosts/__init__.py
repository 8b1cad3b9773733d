"""Models that an encoder lives in: recognisers, classifiers and verifiers of transformers. One file per kind; `load_host` opens them."""
