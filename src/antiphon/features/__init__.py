"""Features: compile → materialize → gate → publish → lookup, and the streamed overlay between refreshes."""
