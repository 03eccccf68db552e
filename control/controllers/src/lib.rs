//! Controllers and scheduler: they reach the API only through the API.
