//! What needs root and a kernel: golden packets, end-to-end tests and benchmarks.
