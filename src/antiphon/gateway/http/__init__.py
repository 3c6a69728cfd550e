"""HTTP below the endpoints: connections and TLS, requests as they are read, responses as they leave."""
