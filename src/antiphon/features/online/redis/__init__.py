"""The online store on a Redis or Valkey server."""
