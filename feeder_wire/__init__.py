"""What server and client both speak: messages, frames, the batch codec, the arena, keys, errors. Imports neither of them."""
