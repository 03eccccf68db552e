//! The Kubernetes API server: one generic REST engine over the schema and the store.
