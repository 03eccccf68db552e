//! What the API knows of its kinds: discovery, defaults, validation, patches, apply, protobuf, tables.
