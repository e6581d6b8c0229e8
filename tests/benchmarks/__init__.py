"""This project against its peers, interleaved in one run: `make bench` writes the table RESULTS.md."""
