"""The online store on this machine: sealed LMDB files and the overlay."""
