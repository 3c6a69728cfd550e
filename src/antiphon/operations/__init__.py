"""Operations: the processes of a platform on one machine, and what its work costs."""
