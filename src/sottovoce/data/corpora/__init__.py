"""Official on-disk layouts of speech corpora, one file each. `open_source` recognises them by themselves."""
