//! What runs in the kernel, and what kernel and daemon agree on.
