"""What tests share that is not a fixture: small models, writers of every container, servers, damage, ggml itself."""
